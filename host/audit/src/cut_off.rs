//! What writes that were cut off leave behind the log's last line: by a power failure, a full disk, a killed server.
//!
//! Such a write leaves the beginning of a line. The server keeps it and vouches for it, so it must be sure that nobody
//! else has written it there: whole lines that it has not signed are never the rest of one.

use serde::de::IgnoredAny;

use crate::line::MAX_LINE_BYTES;

/// How each line begins.
const BEGINNING: &[u8] = b"{\"sequence\":";

/// Whether these bytes are beginnings of lines, one below the other where it has happened again before the next line
/// was whole. The next line brings the line feed, so the last beginning may have one.
pub(crate) fn is_cut_off(rest: &[u8]) -> bool {
    let rest = rest.strip_suffix(b"\n").unwrap_or(rest);
    rest.split(|byte| *byte == b'\n').all(is_beginning)
}

/// Whether this is an object's beginning, and no more: neither a whole one nor anything that cannot become one.
fn is_beginning(piece: &[u8]) -> bool {
    let begins = piece.starts_with(BEGINNING) || (!piece.is_empty() && BEGINNING.starts_with(piece));
    let ends_early = || serde_json::from_slice::<IgnoredAny>(piece).is_err_and(|error| error.is_eof());
    begins && piece.len() < MAX_LINE_BYTES && ends_early()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_line_is_cut_off_and_nothing_else_is() {
        let line = "{\"sequence\":7,\"time\":\"2026\",\"reason\":\"ä \\\"x\\\" }\",\"details\":{\"a\":\"b\"},\"signature\":\"AA==\"}";
        for end in 1..line.len() {
            assert!(is_cut_off(&line.as_bytes()[..end]), "{end}");
        }
        assert!(is_cut_off(format!("{}\n", &line[..20]).as_bytes()));
        assert!(is_cut_off(format!("{}\n{}", &line[..20], &line[..9]).as_bytes()));
        for whole in [
            line.to_owned(),
            format!("{line}\n"),
            format!("{line}x"),
            format!("{line}{}", &line[..20]),
            format!("{}\n{line}\n", &line[..20]),
            "{\"time\":1".to_owned(),
            "rubbish".to_owned(),
            String::new(),
            "\n".to_owned(),
            "{\"sequence\":7}\n\n".to_owned(),
            format!("{BEGIN}\"{}", "x".repeat(MAX_LINE_BYTES), BEGIN = "{\"sequence\":"),
        ] {
            assert!(!is_cut_off(whole.as_bytes()), "{whole}");
        }
    }
}
