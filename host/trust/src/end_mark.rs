//! The mark at the end of a file that says its beginning is not all there is.
//!
//! The beginning of a trust file trusts more than the whole (rules and revocations are missing), and the beginning of a
//! ledger remembers less. Without a mark a file that was cut off, or that somebody is still writing, passes for a
//! complete one.

/// The last line of a trust file and of a server's configuration: an empty TOML table.
///
/// A table, because TOML tools keep it; the last line, because a table further up marks nothing.
pub const END_MARK: &str = "[end]";

/// Whether a TOML text ends with [`END_MARK`]. Empty lines and comments may follow it.
///
/// The text must also be valid TOML: that refuses the cases in which the line is part of a text.
pub fn has_end_mark(text: &str) -> bool {
    text.lines().rev().map(without_comment).find(|line| !line.is_empty()) == Some(END_MARK)
}

fn without_comment(line: &str) -> &str {
    line.split_once('#').map_or(line, |(before, _)| before).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_empty_lines_and_comments_follow_the_mark() {
        for complete in ["[end]", "a = 1\r\n[end]\r\n", "a = 1\n  [end]  # all\n\n# changed in May\n"] {
            assert!(has_end_mark(complete), "{complete:?}");
        }
        for doubtful in ["", "\n", "# [end]", "[end", "[end] a", "[end]\na = 1", "[end]\n[[rule]]\n", "x[end]"] {
            assert!(!has_end_mark(doubtful), "{doubtful:?}");
        }
    }
}
