//! Characters that a text which is shown should not have.

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// Whether a character does something other than to be seen: control and format characters, separators of lines, and what
/// looks like nothing though it is a letter or a mark. A text that somebody else wrote should have none where it ends in
/// logs and terminals.
pub fn is_unseen(character: char) -> bool {
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator};
    matches!(character.general_category(), Control | Format | LineSeparator | ParagraphSeparator) || is_blank(character)
}

/// The grapheme joiner, fillers of Hangul, inherent vowels of Khmer, and the pattern of Braille without a dot.
fn is_blank(character: char) -> bool {
    matches!(
        character,
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}'
    )
}

/// The text with these characters escaped, as `\n` or `\u{202e}`. Every border to a person uses it: log, terminal, errors.
pub fn printable(text: &str) -> String {
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
        assert_eq!(printable("a\u{3164}\u{2800}b"), r"a\u{3164}\u{2800}b");
        assert_eq!(printable("Größe 漢字 “quoted” שלום"), "Größe 漢字 “quoted” שלום");
    }
}
