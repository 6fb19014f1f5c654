//! Glob patterns as Redis has them: `*`, `?`, `[a-z]`, `[^x]`, and `\` before a character that is to be taken literally.
//! Matching neither recurses nor allocates, whatever the pattern.

/// Whether all of `text` matches `pattern`.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    if pattern == b"*" {
        return true;
    }
    if text.is_empty() {
        // Redis matches an empty text with nothing but an empty pattern and a single star.
        return pattern.is_empty();
    }
    let (mut p, mut t) = (0, 0);
    // After a star: where the pattern goes on, and where in the text that was last tried.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
        } else if let Some(next) = step(pattern, p, text[t]) {
            p = next;
            t += 1;
        } else if let Some((after, tried)) = star {
            p = after;
            t = tried + 1;
            star = Some((after, t));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// Where the pattern goes on if what is at `p` matches `byte`.
fn step(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => step_class(pattern, p + 1, byte),
        b'\\' if p + 1 < pattern.len() => (pattern[p + 1] == byte).then_some(p + 2),
        literal => (literal == byte).then_some(p + 1),
    }
}

/// A class of characters, of which `p` is the first place; it also ends where the pattern ends.
fn step_class(pattern: &[u8], mut p: usize, byte: u8) -> Option<usize> {
    let negated = pattern.get(p) == Some(&b'^');
    p += usize::from(negated);
    let mut found = false;
    loop {
        match pattern[p.min(pattern.len())..] {
            [] => break,
            [b'\\', escaped, ..] => {
                found |= escaped == byte;
                p += 2;
            }
            [b']', ..] => {
                p += 1;
                break;
            }
            [from, b'-', to, ..] => {
                found |= (from.min(to)..=from.max(to)).contains(&byte);
                p += 3;
            }
            [literal, ..] => {
                found |= literal == byte;
                p += 1;
            }
        }
    }
    (found != negated).then_some(p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        let yes: [(&str, &str); 14] = [
            ("*", ""),
            ("", ""),
            ("a*", "a"),
            ("*b*", "abc"),
            ("a*b*c", "aXbXbXc"),
            ("h?llo", "hello"),
            ("h[ae]llo", "hallo"),
            ("h[^e]llo", "hallo"),
            ("h[b-a]llo", "hallo"),
            ("\\*", "*"),
            ("[\\]]", "]"),
            ("[a", "a"),
            ("a\\", "a\\"),
            ("**a**", "a"),
        ];
        let no: [(&str, &str); 8] =
            [("**", ""), ("?", ""), ("a", "b"), ("a*b", "abc"), ("h[^e]llo", "hello"), ("\\*", "a"), ("", "a"), ("[]", "]")];
        yes.iter().for_each(|(p, t)| assert!(matches(p.as_bytes(), t.as_bytes()), "{p} {t}"));
        no.iter().for_each(|(p, t)| assert!(!matches(p.as_bytes(), t.as_bytes()), "{p} {t}"));
    }

    #[test]
    fn a_pattern_of_stars_takes_no_stack() {
        let pattern = b"*a".repeat(100_000);
        assert!(!matches(&pattern, b"aaaaaaaaaaaaaaab"));
    }
}
