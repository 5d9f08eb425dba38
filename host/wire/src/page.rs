//! Lists that may be longer than a header, sent page by page.

use serde::{Deserialize, Serialize};

/// Most bytes of a page's entries: 64 KiB, some two hundred keys with the longest names. A server builds one page a
/// connection at a time, so this bounds what a list costs it however long the list is.
pub const PAGE_BYTES: usize = 64 << 10;

/// Consecutive entries of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<Entry> {
    /// The entries, in the list's order. Empty only at the list's end.
    pub entries: Vec<Entry>,
    /// Whether more follow; the next page starts after the last of these.
    pub more: bool,
}

impl<Entry: Serialize> Page<Entry> {
    /// The first entries that fit in so many bytes, and at least one where there is one: an entry alone that is too long
    /// for the receiver is the receiver's to refuse.
    pub fn fill(entries: impl IntoIterator<Item = Entry>, bytes: usize) -> Self {
        let (mut page, mut left) = (Self { entries: Vec::new(), more: false }, bytes);
        for entry in entries {
            let length = encoded_bytes(&entry);
            if length > left && !page.entries.is_empty() {
                page.more = true;
                break;
            }
            left = left.saturating_sub(length);
            page.entries.push(entry);
        }
        page
    }
}

/// Bytes of a value in a message.
fn encoded_bytes(value: &impl Serialize) -> usize {
    /// Counts the bytes and drops them.
    #[derive(Default)]
    struct Counted(usize);

    impl Extend<u8> for Counted {
        fn extend<Bytes: IntoIterator<Item = u8>>(&mut self, bytes: Bytes) {
            self.0 += bytes.into_iter().count();
        }
    }

    // As messages: their lengths are known, and a counter takes any number of bytes.
    postcard::to_extend(value, Counted::default()).map_or(usize::MAX, |Counted(bytes)| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(entries: &[&str], bytes: usize) -> (usize, bool) {
        let page = Page::fill(entries.iter().copied(), bytes);
        (page.entries.len(), page.more)
    }

    #[test]
    fn a_page_holds_what_fits_and_says_whether_more_follow() {
        // A text takes its length and one byte before it.
        assert_eq!(fill(&["abc", "def", "ghi"], 12), (3, false));
        assert_eq!(fill(&["abc", "def", "ghi"], 11), (2, true));
        assert_eq!(fill(&[], 11), (0, false));
    }

    #[test]
    fn an_entry_that_is_too_long_for_any_page_has_one_of_its_own() {
        assert_eq!(fill(&["abcdefgh", "i"], 4), (1, true));
        assert_eq!(fill(&["i", "abcdefgh"], 4), (1, true));
        assert_eq!(fill(&["abcdefgh"], 4), (1, false));
    }
}
