//! Bytes from inside an image, made fit to be printed.

/// The longest text from an image that appears in a message.
const LONGEST: usize = 128;

/// A name as those read it who take it as C does: up to the first zero byte.
pub(crate) fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// `bytes` as text for a message or a terminal: control characters and invalid UTF-8 escaped, cut when long.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let escaped = match std::str::from_utf8(bytes) {
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => bytes.escape_ascii().to_string(),
    };
    if escaped.len() <= LONGEST {
        return escaped;
    }
    let mut cut: String = escaped.chars().take(LONGEST).collect();
    cut.push_str("...");
    cut
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn escapes_what_could_steer_a_terminal() {
        assert_eq!(printable(b"nightly"), "nightly");
        assert_eq!(printable(b"a\x1b[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(printable(b"a\xffb"), "a\\xffb");
        assert!(printable(&[b'x'; 1000]).len() < 140);
    }
}
