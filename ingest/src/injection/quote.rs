//! A note's text as quoted data: one line, in quotation marks that it cannot leave, without anything that reads as a tag.

/// `text` in quotation marks. None where nothing in it can be seen.
///
/// As in JSON, `\` stands before `"` and `\`; as in HTML, `&lt;` and `&gt;` stand for angle brackets (those of full and small
/// width too, which tokenisers fold), and `&amp;` for an `&` that would read as one of these. Whatever breaks a line is a space;
/// what only steers how text looks (direction, invisible joints, tags, variation) is left out, save where a script or an emoji
/// needs it.
pub(super) fn quoted(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len() + 8);
    out.push('"');
    // The last character that was kept, and whether white space came after it.
    let mut last: Option<char> = None;
    let mut space = false;
    // A joint holds two characters together: it is kept when the second one comes.
    let mut joint: Option<char> = None;
    for (at, c) in text.char_indices() {
        if c.is_whitespace() || c.is_control() {
            space = last.is_some();
            joint = None;
            continue;
        }
        if is_joint(c) {
            joint = last.filter(|last| !space && !last.is_ascii() && !is_joint(*last)).map(|_| c);
            continue;
        }
        if is_variation(c) {
            if last.is_some_and(|last| !space && joint.is_none() && !is_variation(last) && !is_joint(last)) {
                out.push(c);
                last = Some(c);
            }
            continue;
        }
        if is_invisible(c) {
            continue;
        }
        if std::mem::take(&mut space) {
            out.push(' ');
        }
        if let Some(joint) = joint.take().filter(|_| !c.is_ascii()) {
            out.push(joint);
        }
        match c {
            '<' | '\u{FF1C}' | '\u{FE64}' => out.push_str("&lt;"),
            '>' | '\u{FF1E}' | '\u{FE65}' => out.push_str("&gt;"),
            '&' if reads_as_escape(&text[at + 1..]) => out.push_str("&amp;"),
            '"' | '\u{FF02}' => out.push_str("\\\""),
            '\\' | '\u{FF3C}' => out.push_str("\\\\"),
            _ => out.push(c),
        }
        last = Some(c);
    }
    out.push('"');
    last.is_some().then_some(out)
}

/// Whether an `&` before this would begin a character reference.
fn reads_as_escape(rest: &str) -> bool {
    let mut shown = rest.chars().filter(|c| !is_invisible(*c) && !is_joint(*c) && !is_variation(*c)).peekable();
    shown.peek() == Some(&'#') || shown.find(|c| !c.is_ascii_alphanumeric()) == Some(';')
}

/// Zero-width non-joiner and joiner: spelling in Persian and Indic scripts, and emoji of several parts.
fn is_joint(c: char) -> bool {
    matches!(c, '\u{200C}' | '\u{200D}')
}

/// How the character before it looks: text or emoji, and the variants of Mongolian letters.
fn is_variation(c: char) -> bool {
    matches!(c, '\u{FE0E}' | '\u{FE0F}' | '\u{180B}'..='\u{180D}' | '\u{180F}')
}

/// Characters that show nothing: direction, fillers, tags, selectors that can carry hidden text.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{00AD}' | '\u{034F}' | '\u{061C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}' | '\u{180E}'
        | '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{3164}'
        | '\u{FE00}'..='\u{FE0D}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFB}' | '\u{1BCA0}'..='\u{1BCA3}'
        | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}')
}
