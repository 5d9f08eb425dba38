//! Texts of a component: cut to a bounded length, and without characters that are not seen.

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use crate::limits::TEXT_BYTES;

/// A guest's text, cut and without what does more than to be seen, fit for logs and terminals.
pub(crate) fn shortened(text: String) -> String {
    text.chars().filter(|character| !is_unseen(*character)).take(TEXT_BYTES / 4).collect()
}

/// Whether a character does something other than to be seen: control and format characters, separators of lines.
fn is_unseen(character: char) -> bool {
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator};
    matches!(character.general_category(), Control | Format | LineSeparator | ParagraphSeparator)
}
