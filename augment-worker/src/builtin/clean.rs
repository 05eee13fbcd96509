//! What of a message is the speaker's own prose: without recalled context, code, and quoted blocks.

const CONTEXT_OPEN: &str = "<memori_context";
const CONTEXT_CLOSE: &str = "</memori_context>";

/// Removes recalled blocks; one that is never closed reaches to the end of its message. Linear.
pub(crate) fn without_context(text: &str) -> String {
    let lowered = text.to_ascii_lowercase();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(open) = lowered[at..].find(CONTEXT_OPEN).map(|i| at + i) {
        let behind = open + CONTEXT_OPEN.len();
        let is_tag = lowered[behind..].chars().next().is_none_or(|c| c == '>' || c == '/' || c.is_whitespace());
        if !is_tag {
            out.push_str(&text[at..behind]);
            at = behind;
            continue;
        }
        out.push_str(&text[at..open]);
        let mut depth = 1_usize;
        let mut scan = behind;
        while depth > 0 {
            let next_close = lowered[scan..].find(CONTEXT_CLOSE).map(|i| scan + i);
            let Some(close) = next_close else { return out };
            depth += lowered[scan..close].matches(CONTEXT_OPEN).count();
            depth -= 1;
            scan = close + CONTEXT_CLOSE.len();
        }
        out.push('\n');
        at = scan;
    }
    out.push_str(&text[at..]);
    out
}

/// Paragraphs of prose: code, quoted lines and their introductions are left out, hard-wrapped lines are joined.
pub(crate) fn paragraphs(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut open = false;
    let mut fence: Option<&str> = None;
    for line in text.split(['\n', '\r', '\u{2028}', '\u{2029}', '\u{b}', '\u{c}']) {
        let trimmed = line.trim();
        if let Some(mark) = fence {
            if trimmed.starts_with(mark) {
                fence = None;
            }
            continue;
        }
        if let Some(mark) = ["```", "~~~"].into_iter().find(|mark| trimmed.starts_with(mark)) {
            let closed_on_line = trimmed.len() > 3 && trimmed[3..].contains(mark);
            fence = (!closed_on_line).then_some(mark);
            open = false;
            continue;
        }
        if trimmed.is_empty() || is_quoted(trimmed) || is_code(trimmed) {
            open = false;
            continue;
        }
        let (body, is_item) = without_bullet(trimmed);
        match out.last_mut() {
            Some(last) if open && !is_item && continues(last, body) => {
                last.push(' ');
                last.push_str(body);
            }
            _ => out.push(body.to_owned()),
        }
        open = true;
    }
    for paragraph in &mut out {
        *paragraph = inline(paragraph);
    }
    out.retain(|p| !p.is_empty());
    out
}

/// A line goes on in the next where it does not end a sentence and the next begins in lower case.
fn continues(last: &str, next: &str) -> bool {
    let ended = last.ends_with(['.', '!', '?', '。', '！', '？', '؟', '।', ':', ';', '…']);
    !ended
        && next.chars().next().is_some_and(|c| c.is_lowercase() || c.is_ascii_digit())
        && !next.starts_with("i ")
        && !next.starts_with("i'")
        && !next.starts_with("my ")
        && last.len() > 40
}

fn is_quoted(line: &str) -> bool {
    line.starts_with('>') || (line.starts_with("On ") && line.ends_with(" wrote:"))
}

/// Lines that a program or a shell would read. Prose with a bracket in it is none.
fn is_code(line: &str) -> bool {
    const HEADS: &[&str] = &[
        "$ ",
        ">>> ",
        "#include",
        "#!/",
        "import ",
        "from ",
        "def ",
        "class ",
        "fn ",
        "pub ",
        "function ",
        "const ",
        "let ",
        "var ",
        "return ",
        "SELECT ",
        "INSERT INTO ",
        "UPDATE ",
        "DELETE FROM ",
        "CREATE TABLE ",
        "File \"",
        "Traceback (most recent call last)",
    ];
    const HARD_HEADS: [&str; 9] = [
        "$ ",
        ">>> ",
        "#include",
        "#!/",
        "INSERT INTO ",
        "DELETE FROM ",
        "CREATE TABLE ",
        "File \"",
        "Traceback (most recent call last)",
    ];
    if HARD_HEADS.iter().any(|head| line.starts_with(head)) {
        return true;
    }
    let marks = line.bytes().filter(|b| matches!(b, b'(' | b')' | b'{' | b'}' | b'=' | b'<' | b'>' | b';' | b'[' | b']')).count();
    let has_head = HEADS.iter().any(|head| line.starts_with(head));
    let ends_like_code = line.ends_with([';', '{', '}']) || line.ends_with("):") || line.ends_with("=>");
    let is_markup = line.starts_with('<') && line.ends_with('>') && line.contains('/');
    let is_json = (line.starts_with('{') && line.ends_with(['}', ','])) || (line.starts_with("[{") && line.ends_with(']'));
    let has_marks = marks >= 2 && (ends_like_code || has_head);
    let is_query = line.starts_with("SELECT ") && line.contains(" FROM ");
    has_marks
        || is_markup
        || (is_json && line.contains(':'))
        || is_query
        || matches!(line, "}" | "};" | "{" | ");" | "})" | "});")
}

/// Without a list's bullet, number or heading marks, and whether there was one.
fn without_bullet(line: &str) -> (&str, bool) {
    for mark in ["- ", "* ", "+ ", "• ", "– ", "— ", "‣ ", "▪ ", "◦ ", "・"] {
        if let Some(rest) = line.strip_prefix(mark) {
            return (rest.trim_start(), true);
        }
    }
    let hashes = line.bytes().take_while(|b| *b == b'#').count();
    if (1..=6).contains(&hashes) && line[hashes..].starts_with(' ') {
        return (line[hashes..].trim_start(), true);
    }
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    if (1..=3).contains(&digits)
        && let Some(rest) = line[digits..].strip_prefix(['.', ')'])
        && rest.starts_with(' ')
        && rest.trim_start().chars().next().is_some_and(char::is_alphabetic)
    {
        return (rest.trim_start(), true);
    }
    (line, false)
}

/// Emphasis and code marks go, what stands between them stays. Invisible characters go.
fn inline(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '`' => {}
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
            }
            '\u{feff}' | '\u{200b}' | '\u{2060}' | '\u{200e}' | '\u{200f}' => {}
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::{paragraphs, without_context};

    #[test]
    fn recalled_context_is_never_read() {
        assert_eq!(without_context("a <memori_context>x</memori_context> b"), "a \n b");
        assert_eq!(without_context("a <memori_context>x\ny"), "a ");
        assert_eq!(without_context("a <MEMORI_CONTEXT v=1>x</Memori_Context>b"), "a \nb");
        assert_eq!(without_context("a <memori_contexts> b"), "a <memori_contexts> b");
        assert_eq!(without_context("<memori_context><memori_context>x</memori_context>y</memori_context>z"), "\nz");
        assert_eq!(without_context("İ<memori_context>x"), "İ");
    }

    #[test]
    fn code_and_quotes_are_left_out() {
        let text =
            "I use C++.\n```\nI like pie\n```\n> I hate tea\nlet x = f(1);\nI live in Rome.\n{\"a\": 1}\n~~~\nopen to the end";
        assert_eq!(paragraphs(text), ["I use C++.", "I live in Rome."]);
        assert_eq!(paragraphs("Let me say (once) that I care; really"), ["Let me say (once) that I care; really"]);
    }

    #[test]
    fn wrapped_lines_are_joined_and_list_items_stand_alone() {
        let text = "I have been living for many years in the old town\nof Berlin.\n- I like tea\n- I like C#\n1. I own a boat\n1.5 litres a day";
        assert_eq!(
            paragraphs(text),
            [
                "I have been living for many years in the old town of Berlin.",
                "I like tea",
                "I like C#",
                "I own a boat",
                "1.5 litres a day"
            ]
        );
    }
}
