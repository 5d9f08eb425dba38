//! Characters that a text which is shown should not have.

use std::ops::RangeInclusive;

/// Unicode's general category `Cf`, format characters: what turns the direction of writing, what joins, what is not seen.
const FORMAT_CHARACTERS: [RangeInclusive<char>; 21] = [
    '\u{ad}'..='\u{ad}',
    '\u{600}'..='\u{605}',
    '\u{61c}'..='\u{61c}',
    '\u{6dd}'..='\u{6dd}',
    '\u{70f}'..='\u{70f}',
    '\u{890}'..='\u{891}',
    '\u{8e2}'..='\u{8e2}',
    '\u{180e}'..='\u{180e}',
    '\u{200b}'..='\u{200f}',
    '\u{202a}'..='\u{202e}',
    '\u{2060}'..='\u{2064}',
    '\u{2066}'..='\u{206f}',
    '\u{feff}'..='\u{feff}',
    '\u{fff9}'..='\u{fffb}',
    '\u{110bd}'..='\u{110bd}',
    '\u{110cd}'..='\u{110cd}',
    '\u{13430}'..='\u{1343f}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0001}'..='\u{e0001}',
    '\u{e0020}'..='\u{e007f}',
];

/// Whether a character does something other than to be seen: control and format characters, separators of lines. A text that
/// somebody else wrote should have none where it ends in logs and terminals.
pub fn is_unseen(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}')
        || FORMAT_CHARACTERS.iter().any(|range| range.contains(&character))
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
