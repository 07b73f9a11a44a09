//! Text that becomes HTML or SVG: escaping, elements around it, and a page of them.

const STYLE: &str = include_str!("page.css");

/// A whole page around its content, which must be HTML already. It needs no network and runs no script.
pub fn document(title: &str, content: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style></head>\n<body><main>\n{content}</main></body></html>\n",
        escape(title)
    )
}

/// A part of a page under a heading; nothing when there is nothing in it.
pub fn section(title: &str, content: &str) -> String {
    if content.is_empty() || content == list(&[]) {
        return String::new();
    }
    format!("<section><h2>{}</h2>\n{content}</section>\n", escape(title))
}

/// Escapes text for content and for attributes in double quotes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// A table: the first row is its head, the first column its names. Cells are escaped here.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |row: &[String]| -> String {
        let (name, numbers) = row
            .split_first()
            .map_or(("", row), |(name, numbers)| (name.as_str(), numbers));
        let numbers: String = numbers
            .iter()
            .map(|cell| format!("<td>{}</td>", escape(cell)))
            .collect();
        format!("<tr><th scope=\"row\">{}</th>{numbers}</tr>\n", escape(name))
    };
    let head: String = head
        .iter()
        .map(|cell| format!("<th scope=\"col\">{}</th>", escape(cell)))
        .collect();
    let body: String = rows.iter().map(|row| cells(row)).collect();
    format!(
        "<div class=\"wide\"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>\n"
    )
}

/// A list of sentences.
pub fn list(items: &[String]) -> String {
    let items: String = items
        .iter()
        .map(|item| format!("<li>{}</li>\n", escape(item)))
        .collect();
    format!("<ul>\n{items}</ul>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_text_stays_text() {
        assert_eq!(escape("<a b=\"c\">&'"), "&lt;a b=&quot;c&quot;&gt;&amp;&#39;");
        let table = table(&["<h>"], &[vec!["<n>".into(), "<c>".into()]]);
        assert!(
            !table.contains("<h>") && !table.contains("<n>") && !table.contains("<c>"),
            "{table}"
        );
        assert!(list(&["<i>".into()]).contains("<li>&lt;i&gt;</li>"));
    }
}
