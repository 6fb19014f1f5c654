//! The state of a group as bytes: equal states give equal bytes. A key's slot follows from the key, so that a snapshot says
//! nothing of groups.
//!
//! ```text
//! snapshot = format u8, changes u64, gone count u32, gone..., count u64, entry...     ascending
//! gone     = place u32, change u64                         the changes that removed keys (see `store`)
//! entry    = has expiry u8, expiry u64 if so, version u64, key length u32, key, value length u32, value
//! ```

use super::bytes::Value;
use super::place::place_of;
use super::store::{Store, GONE_PLACES};

/// The number of the layout above.
const FORMAT: u8 = 2;

/// Appends the state.
pub fn write(store: &Store, out: &mut Vec<u8>) {
    let (changes, gone) = store.history();
    out.push(FORMAT);
    out.extend_from_slice(&changes.to_le_bytes());
    let gone = || (0u32..).zip(gone).filter(|(_, change)| **change > 0);
    out.extend_from_slice(&(gone().count() as u32).to_le_bytes());
    for (place, change) in gone() {
        out.extend_from_slice(&place.to_le_bytes());
        out.extend_from_slice(&change.to_le_bytes());
    }
    out.extend_from_slice(&(store.len() as u64).to_le_bytes());
    store.visit_from(0, |_, key, value, version| {
        match value.expires_ms() {
            None => out.push(0),
            Some(expires_ms) => {
                out.push(1);
                out.extend_from_slice(&expires_ms.to_le_bytes());
            }
        }
        out.extend_from_slice(&version.to_le_bytes());
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
    let [format] = fields.array("format")?;
    if format != FORMAT {
        return Err(format!("snapshot of the key-value state has format {format}, this program reads format {FORMAT}"));
    }
    let mut store = Store::default();
    let (changes, gone) = (u64::from_le_bytes(fields.array("changes")?), fields.gone()?);
    store.set_history(changes, gone).map_err(|()| fields.malformed("removed keys"))?;
    let count = u64::from_le_bytes(fields.array("count")?);
    let mut last: Option<(u64, &[u8])> = None;
    for _ in 0..count {
        let expires_ms = match fields.array("expiry")? {
            [0] => None,
            [1] => Some(u64::from_le_bytes(fields.array("expiry")?)),
            _ => return Err(fields.malformed("expiry")),
        };
        let version = u64::from_le_bytes(fields.array("version")?);
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
        store.restore(place.hash, key, value, version).map_err(|()| fields.malformed("version"))?;
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

    /// The changes that removed keys, all places in ascending order; none if there was none.
    fn gone(&mut self) -> Result<Vec<u64>, String> {
        let count = u32::from_le_bytes(self.array("removed keys")?);
        let mut gone = if count == 0 { Vec::new() } else { vec![0; GONE_PLACES] };
        let mut next = 0;
        for _ in 0..count {
            let place = u32::from_le_bytes(self.array("removed keys")?) as usize;
            let change = u64::from_le_bytes(self.array("removed keys")?);
            let is_next = place >= next && place < gone.len() && change > 0;
            *gone.get_mut(place).filter(|_| is_next).ok_or_else(|| self.malformed("removed keys"))? = change;
            next = place + 1;
        }
        Ok(gone)
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
