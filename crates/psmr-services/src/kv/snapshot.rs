//! The state of a group as bytes: equal states give equal bytes. A key's slot follows from the key, so that a snapshot says
//! nothing of groups.
//!
//! ```text
//! snapshot = version u8, count u64, entry...               ascending by hash and key
//! entry    = has expiry u8, expiry u64 if so, key length u32, key, value length u32, value
//! ```

use super::bytes::Value;
use super::place::place_of;
use super::store::Store;

/// The version of the layout above.
const VERSION: u8 = 1;

/// Appends the state.
pub fn write(store: &Store, out: &mut Vec<u8>) {
    out.push(VERSION);
    out.extend_from_slice(&(store.len() as u64).to_le_bytes());
    store.visit_from(0, |_, key, value| {
        match value.expires_ms() {
            None => out.push(0),
            Some(expires_ms) => {
                out.push(1);
                out.extend_from_slice(&expires_ms.to_le_bytes());
            }
        }
        for string in [key, value.bytes()] {
            out.extend_from_slice(&(string.len() as u32).to_le_bytes());
            out.extend_from_slice(string);
        }
        true
    });
}

/// The state that `write` wrote, of keys whose slots `is_ours`.
pub fn read(bytes: &[u8], is_ours: impl Fn(u16) -> bool) -> Result<Store, String> {
    let mut fields = Fields { bytes, total: bytes.len() };
    let [version] = fields.array("version")?;
    if version != VERSION {
        return Err(format!("snapshot of the key-value state has version {version}, this program reads version {VERSION}"));
    }
    let count = u64::from_le_bytes(fields.array("count")?);
    let mut store = Store::default();
    let mut last: Option<(u64, &[u8])> = None;
    for _ in 0..count {
        let expires_ms = match fields.array("expiry")? {
            [0] => None,
            [1] => Some(u64::from_le_bytes(fields.array("expiry")?)),
            _ => return Err(fields.malformed("expiry")),
        };
        let (key, value) = (fields.string("key")?, fields.string("value")?);
        let place = place_of(key);
        if !is_ours(place.slot) {
            return Err(format!("snapshot of the key-value state has a key of slot {}, which is in another group", place.slot));
        }
        if last.is_some_and(|last| last >= (place.hash, key)) {
            return Err(fields.malformed("order of keys"));
        }
        last = Some((place.hash, key));
        let mut value = Value::new(value);
        value.set_expires_ms(expires_ms);
        store.add(place.hash, key, value);
    }
    if fields.bytes.is_empty() {
        Ok(store)
    } else {
        Err(fields.malformed("end"))
    }
}

struct Fields<'a> {
    bytes: &'a [u8],
    total: usize,
}

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let (array, rest) = self.bytes.split_first_chunk().ok_or_else(|| self.malformed(what))?;
        self.bytes = rest;
        Ok(*array)
    }

    fn string(&mut self, what: &str) -> Result<&'a [u8], String> {
        let length = u32::from_le_bytes(self.array(what)?) as usize;
        let (string, rest) = self.bytes.split_at_checked(length).ok_or_else(|| self.malformed(what))?;
        self.bytes = rest;
        Ok(string)
    }

    fn malformed(&self, what: &str) -> String {
        let offset = self.total - self.bytes.len();
        format!("snapshot of the key-value state is malformed: {what} at byte {offset} of {}", self.total)
    }
}
