//! Decimal numbers as Redis adds them: the x87's extended floats, of 64 bits of mantissa, rounded to nearest, ties to even.
//! Made of integers alone, so that all replicas compute the same, whatever their processors.

/// The longest number in bytes.
const TEXT_BYTES_MAX: usize = 5 * 1024 - 1;

/// The highest bit of the greatest float has this weight.
const HIGHEST_MAX: i64 = 16383;

/// The lowest bit of the least float has this weight.
const LOWEST_MIN: i64 = -16445;

/// Digits after the point.
const DECIMALS: usize = 17;

/// Room below the mantissa while two floats are added: what is shifted out further only says that it was not zero.
const GUARD_BITS: u32 = 62;

/// A float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float80 {
    /// Beyond all numbers.
    Infinite { is_negative: bool },
    /// `mantissa * 2^exponent`; the mantissa's highest bit is set, or it is zero.
    Finite { is_negative: bool, mantissa: u64, exponent: i64 },
}

impl Float80 {
    /// Nothing.
    pub const ZERO: Float80 = Float80::Finite { is_negative: false, mantissa: 0, exponent: 0 };

    /// The number that a text is to the C library's `strtold`, all of it, without spaces before it; `None` if it is none,
    /// or not within what a float can be.
    pub fn parse(text: &[u8]) -> Option<Float80> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let (is_negative, digits) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        if digits.eq_ignore_ascii_case(b"inf") || digits.eq_ignore_ascii_case(b"infinity") {
            return Some(Float80::Infinite { is_negative });
        }
        let magnitude = match digits {
            [b'0', b'x' | b'X', rest @ ..] => parse_digits(rest, 16, b'p')?,
            rest => parse_digits(rest, 10, b'e')?,
        };
        match magnitude.rounded(is_negative) {
            Float80::Infinite { .. } => None,
            finite => Some(finite),
        }
        .filter(|_| !magnitude.vanishes())
    }

    /// The sum; `None` if it is no number, or infinite.
    pub fn checked_add(self, other: Float80) -> Option<Float80> {
        let (Float80::Finite { .. }, Float80::Finite { .. }) = (self, other) else { return None };
        let (big, small) = if self.order() >= other.order() { (self, other) } else { (other, self) };
        let (negative, (a, exponent), (b, small_exponent)) = (big.is_negative(), big.parts(), small.parts());
        if b == 0 {
            // Only two negative zeros make a negative one.
            let is_negative = if a == 0 { negative && small.is_negative() } else { negative };
            return Some(Float80::Finite { is_negative, mantissa: a, exponent });
        }
        let (a, b) = (u128::from(a) << GUARD_BITS, u128::from(b) << GUARD_BITS);
        let b = shift_right_jamming(b, exponent - small_exponent);
        let sum = if negative == small.is_negative() { a + b } else { a - b };
        if sum == 0 {
            return Some(Float80::ZERO);
        }
        match round(sum, exponent - i64::from(GUARD_BITS), negative) {
            Float80::Infinite { .. } => None,
            finite => Some(finite),
        }
    }

    /// The number in decimal: 17 digits after the point, without the zeros at the end.
    pub fn to_text(self) -> Vec<u8> {
        let (mantissa, exponent) = self.parts();
        let mut text = if exponent >= 0 { whole(mantissa, exponent) } else { fractional(mantissa, exponent) };
        if self.is_negative() && text != b"0" {
            text.insert(0, b'-');
        }
        text
    }

    fn is_negative(self) -> bool {
        match self {
            Float80::Infinite { is_negative } | Float80::Finite { is_negative, .. } => is_negative,
        }
    }

    fn parts(self) -> (u64, i64) {
        match self {
            Float80::Infinite { .. } => (0, 0),
            Float80::Finite { mantissa, exponent, .. } => (mantissa, exponent),
        }
    }

    /// Greater for what is further from zero.
    fn order(self) -> (bool, i64, u64) {
        let (mantissa, exponent) = self.parts();
        (mantissa != 0, exponent, mantissa)
    }
}

/// An exact number on its way to a float: `integer * 2^exponent`, and a bit more if `has_rest`.
struct Magnitude {
    integer: Natural,
    exponent: i64,
    has_rest: bool,
}

impl Magnitude {
    fn rounded(&self, is_negative: bool) -> Float80 {
        let bits = self.integer.bits();
        if bits == 0 {
            return Float80::Finite { is_negative, mantissa: 0, exponent: 0 };
        }
        let excess = bits.saturating_sub(128);
        let (top, has_lost) = self.integer.top_from(excess);
        // The lowest of 128 bits is far below the mantissa's; of fewer bits nothing is lost.
        let jam = u128::from(has_lost || self.has_rest);
        let room = top.leading_zeros();
        round(top << room | jam, self.exponent + excess as i64 - i64::from(room), is_negative)
    }

    /// Whether it is not zero, but nearer to it than to the least float.
    fn vanishes(&self) -> bool {
        let bits = self.integer.bits();
        let highest = self.exponent + bits as i64 - 1;
        let is_power = !self.has_rest && self.integer.is_power_of_two();
        bits > 0 && (highest < LOWEST_MIN - 1 || (highest == LOWEST_MIN - 1 && is_power))
    }
}

/// The float nearest to `bits * 2^exponent`, which is not zero.
fn round(bits: u128, exponent: i64, is_negative: bool) -> Float80 {
    let drop = i64::from(64 - bits.leading_zeros() as i32);
    let (mut mantissa, mut exponent) = if drop <= 0 {
        ((bits as u64) << -drop, exponent + drop)
    } else {
        let (kept, rest, half) = ((bits >> drop) as u64, bits & ((1 << drop) - 1), 1u128 << (drop - 1));
        let is_up = rest > half || (rest == half && kept & 1 == 1);
        match kept.checked_add(u64::from(is_up)) {
            Some(kept) => (kept, exponent + drop),
            None => (1 << 63, exponent + drop + 1),
        }
    };
    if exponent + 63 > HIGHEST_MAX {
        return Float80::Infinite { is_negative };
    }
    if mantissa == 0 {
        (mantissa, exponent) = (0, 0);
    }
    Float80::Finite { is_negative, mantissa, exponent }
}

fn shift_right_jamming(bits: u128, count: i64) -> u128 {
    match u32::try_from(count) {
        Ok(count) if count < 128 => bits >> count | u128::from(bits & ((1 << count) - 1) != 0),
        _ => u128::from(bits != 0),
    }
}

/// Digits, at most one point among them, and perhaps an exponent after `mark`.
fn parse_digits(text: &[u8], base: u32, mark: u8) -> Option<Magnitude> {
    let (mut integer, mut count, mut after_point, mut has_point) = (Natural::default(), 0, 0i64, false);
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match char::from(*byte).to_digit(base) {
            Some(digit) => {
                integer.multiply_add(base, digit);
                count += 1;
                after_point += i64::from(has_point);
            }
            None if *byte == b'.' && !has_point => has_point = true,
            None => break,
        }
        at += 1;
    }
    let given = match text.get(at) {
        None => 0,
        Some(byte) if byte.eq_ignore_ascii_case(&mark) => parse_exponent(&text[at + 1..])?,
        Some(_) => return None,
    };
    if count == 0 {
        return None;
    }
    if base == 16 {
        return Some(Magnitude { integer, exponent: given - 4 * after_point, has_rest: false });
    }
    Some(scaled(integer, given - after_point))
}

/// An exponent, cut where every number but zero is infinite or vanishes anyway.
fn parse_exponent(text: &[u8]) -> Option<i64> {
    let (sign, digits) = match text {
        [b'-', rest @ ..] => (-1, rest),
        [b'+', rest @ ..] => (1, rest),
        rest => (1, rest),
    };
    let add = |value: i64, digit: &u8| digit.is_ascii_digit().then(|| (value * 10 + i64::from(digit - b'0')).min(100_000));
    (!digits.is_empty()).then(|| digits.iter().try_fold(0, add)).flatten().map(|value| sign * value)
}

/// `integer * 10^power`
fn scaled(mut integer: Natural, power: i64) -> Magnitude {
    let digits = (integer.bits() as i64 * 1233) >> 12;
    if integer.bits() == 0 || power + digits < -5200 {
        // Zero, or so little that it vanishes.
        let exponent = 2 * LOWEST_MIN;
        return Magnitude { integer: if integer.bits() == 0 { integer } else { Natural(vec![1]) }, exponent, has_rest: false };
    }
    if power + digits > 5200 {
        return Magnitude { integer: Natural(vec![1]), exponent: 2 * HIGHEST_MAX, has_rest: false };
    }
    if power >= 0 {
        (0..power).for_each(|_| integer.multiply_add(10, 0));
        return Magnitude { integer, exponent: 0, has_rest: false };
    }
    // What is divided gets so many bits that at least 128 of them are left.
    let words = 4 + power.unsigned_abs() as usize / 9;
    integer.0.splice(0..0, std::iter::repeat_n(0, words));
    let (nines, ones) = (power.unsigned_abs() / 9, power.unsigned_abs() % 9);
    let mut has_rest = false;
    for divisor in std::iter::repeat_n(1_000_000_000, nines as usize).chain(std::iter::repeat_n(10, ones as usize)) {
        has_rest |= integer.divide(divisor) != 0;
    }
    Magnitude { integer, exponent: -32 * words as i64, has_rest }
}

/// `mantissa * 2^exponent` in decimal.
fn whole(mantissa: u64, exponent: i64) -> Vec<u8> {
    let mut integer = Natural(vec![mantissa as u32, (mantissa >> 32) as u32]);
    (0..exponent / 30).for_each(|_| integer.multiply_add(1 << 30, 0));
    integer.multiply_add(1 << (exponent % 30), 0);
    let mut groups = Vec::new();
    while integer.bits() > 0 {
        groups.push(integer.divide(1_000_000_000));
    }
    let first = groups.pop().unwrap_or(0).to_string();
    groups.iter().rev().fold(first, |text, group| format!("{text}{group:09}")).into_bytes()
}

/// `mantissa / 2^-exponent` in decimal, rounded.
fn fractional(mantissa: u64, exponent: i64) -> Vec<u8> {
    let scaled = u128::from(mantissa) * 10u128.pow(DECIMALS as u32);
    let drop = exponent.unsigned_abs();
    let rounded = if drop >= 128 {
        0
    } else {
        let (kept, rest, half) = (scaled >> drop, scaled & ((1 << drop) - 1), 1u128 << (drop - 1));
        kept + u128::from(rest > half || (rest == half && kept & 1 == 1))
    };
    let unit = 10u128.pow(DECIMALS as u32);
    let text = format!("{}.{:017}", rounded / unit, rounded % unit);
    text.trim_end_matches('0').trim_end_matches('.').as_bytes().to_vec()
}

/// A natural number, the lowest 32 bits first.
#[derive(Default)]
struct Natural(Vec<u32>);

impl Natural {
    fn multiply_add(&mut self, factor: u32, summand: u32) {
        let mut carry = u64::from(summand);
        for word in &mut self.0 {
            carry += u64::from(*word) * u64::from(factor);
            *word = carry as u32;
            carry >>= 32;
        }
        if carry > 0 {
            self.0.push(carry as u32);
        }
    }

    /// Divides, and gives the rest.
    fn divide(&mut self, divisor: u32) -> u32 {
        let mut rest = 0;
        for word in self.0.iter_mut().rev() {
            let dividend = rest << 32 | u64::from(*word);
            *word = (dividend / u64::from(divisor)) as u32;
            rest = dividend % u64::from(divisor);
        }
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        rest as u32
    }

    /// The place of the highest bit that is set, from 1; 0 if there is none.
    fn bits(&self) -> usize {
        let highest = self.0.iter().rposition(|word| *word != 0);
        highest.map_or(0, |at| 32 * (at + 1) - self.0[at].leading_zeros() as usize)
    }

    fn is_power_of_two(&self) -> bool {
        self.0.iter().map(|word| word.count_ones()).sum::<u32>() == 1
    }

    /// The 128 bits from this place on, and whether one below is set.
    fn top_from(&self, place: usize) -> (u128, bool) {
        let bit = |at: usize| self.0.get(at / 32).is_some_and(|word| word >> (at % 32) & 1 == 1);
        let top = (place..place + 128).rev().fold(0, |top, at| top << 1 | u128::from(bit(at)));
        (top, (0..place).any(bit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(number: &str) -> Option<String> {
        Float80::parse(number.as_bytes()).map(|number| String::from_utf8(number.to_text()).expect("digits"))
    }

    #[test]
    fn numbers_are_read_and_written_as_the_c_library_does() {
        let same = ["0", "1", "-1", "0.5", "123456789.25", "18446744073709551616", "0.1", "-3.00000000000000044"];
        same.iter().for_each(|number| assert_eq!(text(number).as_deref(), Some(*number)));
        let others = [("1e3", "1000"), (".5", "0.5"), ("5.", "5"), ("+2", "2"), ("-0", "0"), ("0x1.8p1", "3"), ("1e-30", "0")];
        others.iter().for_each(|(number, shown)| assert_eq!(text(number).as_deref(), Some(*shown), "{number}"));
        for wrong in ["", "-", ".", "e5", "1e", "1 ", " 1", "1.2.3", "nan", "0x", "1e5000", "1e-5000", "1e99999999999999999999"] {
            assert_eq!(text(wrong), None, "{wrong}");
        }
        assert_eq!(text(&"9".repeat(TEXT_BYTES_MAX + 1)), None);
    }

    proptest::proptest! {
        #[test]
        fn sums_of_integers_of_63_bits_are_exact(a in i64::MIN / 2..i64::MAX / 2, b in i64::MIN / 2..i64::MAX / 2) {
            let number = |value: i64| Float80::parse(value.to_string().as_bytes()).expect("a number");
            let sum = number(a).checked_add(number(b)).expect("a sum");
            assert_eq!(sum.to_text(), (a + b).to_string().into_bytes());
        }

        #[test]
        fn any_text_is_a_number_or_refused(text in "[-+]?[0-9.]{0,30}([epx][-+]?[0-9]{0,6})?") {
            if let Some(number) = Float80::parse(text.as_bytes()) {
                let shown = number.to_text();
                assert!(Float80::parse(&shown).is_some() || shown.len() > TEXT_BYTES_MAX);
            }
        }
    }
}
