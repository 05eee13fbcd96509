//! What a process tells at `/metrics`, in Prometheus' text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>): only what our own processes write of it, so no
//! time stamps.

/// One line: a name, labels, a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) value: f64,
}

impl Sample {
    /// The value of a label; empty where there is none.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| label == name).map_or("", |(_, value)| value)
    }
}

/// All samples; lines that are none are passed over.
pub(crate) fn samples(text: &str) -> Vec<Sample> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
}

fn sample(line: &str) -> Option<Sample> {
    let (head, value) = line.trim_end().rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let (name, labels) = match head.split_once('{') {
        None => (head, Vec::new()),
        Some((name, labels)) => (name, labels_in(labels.strip_suffix('}')?)?),
    };
    Some(Sample { name: name.to_owned(), labels, value })
}

fn labels_in(mut text: &str) -> Option<Vec<(String, String)>> {
    let mut labels = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let (mut value, mut chars) = (String::new(), rest.char_indices());
        let end = loop {
            match chars.next()? {
                (end, '"') => break end,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.push((name.to_owned(), value));
        text = &rest[end + 1..];
        text = text.strip_prefix(',').unwrap_or(text);
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_labels_and_values() {
        let text =
            "# TYPE a counter\na 3\n\nb{x=\"1\",y=\"say \\\"so\\\", {now}\\\\\"} 2.5e3\nc_bucket{le=\"+Inf\"} 7\nnonsense\n";
        let found = samples(text);
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].name.as_str(), found[0].value), ("a", 3.0));
        assert_eq!((found[1].label("x"), found[1].label("y"), found[1].value), ("1", "say \"so\", {now}\\", 2500.0));
        assert_eq!((found[2].name.as_str(), found[2].label("le"), found[2].label("none")), ("c_bucket", "+Inf", ""));
    }
}
