//! Keys and values as the map holds them: small ones in place, so that most of them cost no allocation and no cache miss.

use thin_vec::ThinVec;

/// The longest key that is held in place.
const KEY_INLINE: usize = 22;

/// The longest value that is held in place.
const VALUE_INLINE: usize = 14;

/// A key: 24 bytes, and an allocation only beyond 22 bytes of key.
#[derive(Clone)]
pub struct Key(KeyForm);

#[derive(Clone)]
enum KeyForm {
    Inline { length: u8, bytes: [u8; KEY_INLINE] },
    Heap(Box<[u8]>),
}

impl Key {
    /// A copy of `bytes`.
    pub fn new(bytes: &[u8]) -> Key {
        Key(if bytes.len() <= KEY_INLINE {
            let mut inline = [0; KEY_INLINE];
            inline[..bytes.len()].copy_from_slice(bytes);
            KeyForm::Inline { length: bytes.len() as u8, bytes: inline }
        } else {
            KeyForm::Heap(bytes.into())
        })
    }

    /// What a key of this length takes beside itself.
    pub fn heap_bytes(length: usize) -> usize {
        if length <= KEY_INLINE {
            0
        } else {
            length
        }
    }

    /// The key's bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            KeyForm::Inline { length, bytes } => &bytes[..usize::from(*length).min(KEY_INLINE)],
            KeyForm::Heap(bytes) => bytes,
        }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> std::cmp::Ordering {
        self.bytes().cmp(other.bytes())
    }
}

/// A value and its expiry: 16 bytes, and an allocation only beyond 14 bytes of value or where there is an expiry.
pub struct Value(ValueForm);

enum ValueForm {
    Inline {
        length: u8,
        bytes: [u8; VALUE_INLINE],
    },
    Heap(ThinVec<u8>),
    /// The value in here has no expiry of its own.
    Timed(Box<(u64, Value)>),
}

impl Value {
    /// A copy of `bytes`, which never expires.
    #[inline]
    pub fn new(bytes: &[u8]) -> Value {
        Value(if bytes.len() <= VALUE_INLINE {
            let mut inline = [0; VALUE_INLINE];
            inline[..bytes.len()].copy_from_slice(bytes);
            ValueForm::Inline { length: bytes.len() as u8, bytes: inline }
        } else {
            ValueForm::Heap(ThinVec::from(bytes))
        })
    }

    /// The value's bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            ValueForm::Inline { length, bytes } => &bytes[..usize::from(*length).min(VALUE_INLINE)],
            ValueForm::Heap(bytes) => bytes,
            ValueForm::Timed(timed) => timed.1.bytes(),
        }
    }

    /// What it takes beside itself, by its length: replicas tell the same, whatever room they have.
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            ValueForm::Inline { .. } => 0,
            ValueForm::Heap(bytes) => bytes.len(),
            ValueForm::Timed(timed) => size_of::<(u64, Value)>() + timed.1.heap_bytes(),
        }
    }

    /// When it expires, in milliseconds since 1970.
    #[inline]
    pub fn expires_ms(&self) -> Option<u64> {
        match &self.0 {
            ValueForm::Timed(timed) => Some(timed.0),
            _ => None,
        }
    }

    /// Replaces the bytes, keeps the expiry. Memory is used again where it fits.
    #[inline]
    pub fn assign(&mut self, new: &[u8]) {
        match &mut self.0 {
            ValueForm::Inline { length, bytes } if new.len() <= VALUE_INLINE => {
                bytes[..new.len()].copy_from_slice(new);
                *length = new.len() as u8;
            }
            ValueForm::Heap(bytes) if fits(bytes.capacity(), new.len()) => {
                if bytes.len() == new.len() {
                    bytes.copy_from_slice(new);
                } else {
                    bytes.clear();
                    bytes.extend_from_slice(new);
                }
            }
            ValueForm::Timed(timed) => timed.1.assign(new),
            _ => *self = Value::new(new),
        }
    }

    /// Appends to the bytes, keeps the expiry. A value that has grown on the heap gets room to grow again.
    pub fn append(&mut self, suffix: &[u8]) {
        match &mut self.0 {
            ValueForm::Inline { length, bytes } if usize::from(*length) + suffix.len() <= VALUE_INLINE => {
                let start = usize::from(*length);
                bytes[start..start + suffix.len()].copy_from_slice(suffix);
                *length += suffix.len() as u8;
            }
            ValueForm::Inline { length, bytes } => {
                let start = usize::from(*length).min(VALUE_INLINE);
                let mut grown = ThinVec::with_capacity(start + suffix.len());
                grown.extend_from_slice(&bytes[..start]);
                grown.extend_from_slice(suffix);
                self.0 = ValueForm::Heap(grown);
            }
            ValueForm::Heap(bytes) => bytes.extend_from_slice(suffix),
            ValueForm::Timed(timed) => timed.1.append(suffix),
        }
    }

    /// The value's bytes, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            ValueForm::Inline { length, bytes } => &mut bytes[..usize::from(*length).min(VALUE_INLINE)],
            ValueForm::Heap(bytes) => bytes,
            ValueForm::Timed(timed) => timed.1.bytes_mut(),
        }
    }

    /// Appends zeros until there are so many bytes.
    pub fn grow(&mut self, length: usize) {
        let missing = length.saturating_sub(self.bytes().len());
        match &mut self.0 {
            ValueForm::Heap(bytes) => bytes.resize(bytes.len() + missing, 0),
            ValueForm::Timed(timed) => timed.1.grow(length),
            ValueForm::Inline { .. } => self.append(&vec![0; missing]),
        }
    }

    /// Sets or removes the expiry.
    pub fn set_expires_ms(&mut self, expires_ms: Option<u64>) {
        match (&mut self.0, expires_ms) {
            (ValueForm::Timed(timed), Some(expires_ms)) => timed.0 = expires_ms,
            (ValueForm::Timed(timed), None) => *self = std::mem::replace(&mut timed.1, Value::new(b"")),
            (_, Some(expires_ms)) => {
                let plain = std::mem::replace(self, Value::new(b""));
                self.0 = ValueForm::Timed(Box::new((expires_ms, plain)));
            }
            (_, None) => {}
        }
    }
}

/// Whether `length` bytes belong into an allocation of `capacity`: neither too many nor so few that most of it is idle.
fn fits(capacity: usize, length: usize) -> bool {
    length > VALUE_INLINE && length <= capacity && capacity <= 2 * length + 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_small() {
        assert_eq!(std::mem::size_of::<Key>(), 24);
        assert_eq!(std::mem::size_of::<Value>(), 16);
    }

    #[test]
    fn a_key_keeps_its_bytes_in_place_and_on_the_heap() {
        for length in [0, 1, 22, 23, 300] {
            let bytes: Vec<u8> = (0..length).map(|b| b as u8).collect();
            assert_eq!(Key::new(&bytes).bytes(), bytes);
        }
    }

    proptest::proptest! {
        #[test]
        fn a_value_is_what_was_assigned_and_appended(steps in proptest::collection::vec(
            (0..5u8, proptest::collection::vec(0..255u8, 0..40)), 0..30)) {
            let mut value = Value::new(b"");
            let (mut bytes, mut expires_ms) = (Vec::new(), None);
            for (step, new) in steps {
                match step {
                    0 => { value.assign(&new); bytes = new; }
                    1 => { value.append(&new); bytes.extend_from_slice(&new); }
                    4 => {
                        value.grow(new.len());
                        bytes.resize(bytes.len().max(new.len()), 0);
                        value.bytes_mut().reverse();
                        bytes.reverse();
                    }
                    2 => { expires_ms = Some(new.len() as u64); value.set_expires_ms(expires_ms); }
                    _ => { expires_ms = None; value.set_expires_ms(None); }
                }
                assert_eq!(value.bytes(), bytes);
                assert_eq!(value.expires_ms(), expires_ms);
            }
        }
    }
}
