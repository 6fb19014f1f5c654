//! The services that come with psmr, and their client protocols. A service knows nothing of its protocol: [`kv`] is a
//! replicated map from keys to values with expiry, [`resp`] makes it look like Redis.

pub mod glob;
pub mod kv;
pub mod resp;
