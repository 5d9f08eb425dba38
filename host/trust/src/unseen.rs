//! Characters that a text which is shown should not have.

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// Whether a character does something other than to be seen: control and format characters, separators of lines. A text that
/// somebody else wrote should have none where it ends in logs and terminals.
pub fn is_unseen(character: char) -> bool {
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator};
    matches!(character.general_category(), Control | Format | LineSeparator | ParagraphSeparator)
}

/// Escapes them.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|character| match is_unseen(character) {
            true => character.escape_default().to_string(),
            false => character.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_turns_the_direction_of_writing_is_escaped_and_words_are_not() {
        assert_eq!(
            printable("a\n\u{202e}\u{2066}\u{200b}\u{feff}b\u{1b}"),
            r"a\n\u{202e}\u{2066}\u{200b}\u{feff}b\u{1b}"
        );
        assert_eq!(printable("Größe 漢字 “quoted” שלום"), "Größe 漢字 “quoted” שלום");
    }
}
