//! The figures, for people as tables and for scripts as JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::ablate::{self, Ablation};
use super::ask::{Found, INSTRUCTION_LIMIT, Item, TIMED_LIMIT};
use super::format::{Data, Question};
use super::measure::{self, Mean, Scores, Separation, percentile};
use crate::output::table;

/// Characters of a text among the misses.
const SHOWN_CHARACTERS: usize = 110;
/// What came instead, per missed question.
const SHOWN_INSTEAD: usize = 3;
/// The measures of the tables by category and by language, with their headings.
const COLUMNS: [(&str, &str); 8] = [
    ("turn_recall@5", "turn@5"),
    ("turn_recall@10", "turn@10"),
    ("turn_mrr", "MRR"),
    ("session_recall@5", "session@5"),
    ("session_recall@10", "session@10"),
    ("fact_recall@5", "fact@5"),
    ("fact_recall@10", "fact@10"),
    ("fact_mrr", "fact MRR"),
];

/// Questions of one kind.
struct Group {
    questions: usize,
    means: BTreeMap<String, Mean>,
}

/// Milliseconds at the median and the 99th percentile.
struct Times {
    queries: usize,
    client: (f64, f64),
    service: (f64, f64),
}

/// Everything that was measured.
pub(super) struct Report {
    counts: Value,
    /// Of the first answer.
    recipe: Value,
    /// How many answers came by each recipe.
    recipes: BTreeMap<String, usize>,
    overall: Group,
    by_category: BTreeMap<String, Group>,
    by_language: BTreeMap<String, Group>,
    hot: Times,
    cold: Times,
    separation: Vec<(&'static str, Separation)>,
    ablations: Vec<Ablation>,
    misses: Vec<Value>,
}

impl Report {
    /// Measures answers; `found` stands in the order of the questions.
    pub(super) fn of(data: &Data, found: &[Found], ablations: bool, misses: usize) -> Self {
        let asked: Vec<(&Question, &Found)> = data.questions.iter().zip(found).collect();
        let scores: Vec<Scores> = asked.iter().map(|(question, found)| measure::scores(data, question, found)).collect();
        let scored: Vec<(&Question, &Scores)> = data.questions.iter().zip(&scores).collect();
        let separations = [
            ("messages", measure::separation(asked.iter().copied(), |ranking| &ranking.messages)),
            ("facts", measure::separation(asked.iter().copied(), |ranking| &ranking.facts)),
        ];
        let times = |first: bool| times(found.iter().filter(|found| found.is_first == first));
        Self {
            counts: json!({
                "conversations": data.conversations.len(), "entities": data.entities().len(),
                "sessions": data.conversations.iter().map(|c| c.sessions.len()).sum::<usize>(),
                "messages": data.messages(), "questions": data.questions.len(),
            }),
            recipe: found.first().map(|found| found.recipe.clone()).unwrap_or_default(),
            recipes: recipes(found),
            overall: Group { questions: scores.len(), means: measure::means(&scores) },
            by_category: groups(&scored, |question| &question.category),
            by_language: groups(&scored, |question| &question.language),
            hot: times(false),
            cold: times(true),
            separation: separations.into_iter().filter_map(|(name, one)| Some((name, one?))).collect(),
            ablations: if ablations { ablate::table(data, &asked) } else { Vec::new() },
            misses: asked.iter().filter_map(|(question, found)| missed(data, question, found)).take(misses).collect(),
        }
    }

    /// For scripts.
    pub(super) fn json(&self) -> Value {
        let groups = |groups: &BTreeMap<String, Group>| groups.iter().map(|(name, group)| (name.clone(), group.json())).collect();
        let separation: serde_json::Map<String, Value> = self
            .separation
            .iter()
            .map(|(name, s)| {
                let one = json!({"unanswerable": s.unanswerable, "mean_answerable": rounded(s.mean_answerable),
                    "mean_unanswerable": rounded(s.mean_unanswerable), "auc": rounded(s.auc)});
                ((*name).to_owned(), one)
            })
            .collect();
        json!({
            "data": self.counts,
            "ranking": self.recipe,
            "answers_by_recipe": self.recipes,
            "overall": self.overall.json(),
            "by_category": Value::Object(groups(&self.by_category)),
            "by_language": Value::Object(groups(&self.by_language)),
            "ms_per_query": {"hot": self.hot.json(), "cold": self.cold.json()},
            "best_score": separation,
            "ablations": self.ablations.iter().map(ablation_json).collect::<Vec<_>>(),
            "misses": self.misses,
        })
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let count = |name: &str| self.counts[name].to_string();
        let mut parts = vec![
            format!(
                "{} conversations of {} entities in {} sessions, {} messages, {} questions; recipe: {}",
                count("conversations"),
                count("entities"),
                count("sessions"),
                count("messages"),
                count("questions"),
                self.recipe_text(),
            ),
            self.overall_text(),
            groups_text("category", &self.by_category, &self.overall),
            groups_text("language", &self.by_language, &self.overall),
            self.times_text(),
        ];
        let separation: Vec<Vec<String>> = self
            .separation
            .iter()
            .map(|(name, s)| vec![(*name).to_owned(), figure(s.mean_answerable), figure(s.mean_unanswerable), figure(s.auc)])
            .collect();
        if !separation.is_empty() {
            parts.push(table(&["best score of", "answerable", "unanswerable", "AUC"], &separation));
        }
        if !self.ablations.is_empty() {
            let rows: Vec<Vec<String>> = self.ablations.iter().map(ablation_row).collect();
            let heading = ["recall@10 of the evidence", "turns", "change", "MRR", "facts", "change"];
            parts.push(table(&heading, &rows));
        }
        parts.extend(self.misses.iter().map(miss_text));
        parts.join("\n\n")
    }

    fn recipe_text(&self) -> String {
        let text = |name: &str| self.recipe[name].as_str().map(str::to_owned);
        let recipe = text("recipe").unwrap_or_else(|| "not told".to_owned());
        let because = text("model").or_else(|| text("reason"));
        let recipe = because.map_or(recipe.clone(), |because| format!("{recipe} ({because})"));
        let several: Vec<String> = self.recipes.iter().map(|(name, count)| format!("{count} {name}")).collect();
        if several.len() > 1 { format!("{recipe}; answers: {}", several.join(", ")) } else { recipe }
    }

    fn overall_text(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .overall
            .means
            .iter()
            .map(|(name, m)| {
                vec![
                    name.replace('_', " "),
                    m.questions.to_string(),
                    figure(m.mean),
                    format!("{}–{}", figure(m.low), figure(m.high)),
                ]
            })
            .collect();
        table(&["measure", "questions", "mean", "95 %"], &rows)
    }

    fn times_text(&self) -> String {
        let row = |name: &str, times: &Times| {
            let ms = |value: f64| format!("{value:.2}");
            vec![
                name.to_owned(),
                times.queries.to_string(),
                ms(times.client.0),
                ms(times.client.1),
                ms(times.service.0),
                ms(times.service.1),
            ]
        };
        let heading = ["ms per query", "queries", "client p50", "client p99", "service p50", "service p99"];
        let note = format!("Timed with limit {TIMED_LIMIT} and messages; cold: an entity's first query.");
        table(&heading, &[row("hot", &self.hot), row("cold", &self.cold)]) + "\n   " + &note
    }
}

impl Group {
    fn json(&self) -> Value {
        let means: serde_json::Map<String, Value> =
            self.means.iter().map(|(name, mean)| (name.clone(), mean_json(mean))).collect();
        json!({"questions": self.questions, "measures": means})
    }
}

impl Times {
    fn json(&self) -> Value {
        json!({"queries": self.queries, "client_p50": rounded(self.client.0), "client_p99": rounded(self.client.1),
            "took_p50": rounded(self.service.0), "took_p99": rounded(self.service.1)})
    }
}

/// How many answers came by which recipe, and why by words.
fn recipes(found: &[Found]) -> BTreeMap<String, usize> {
    let mut recipes = BTreeMap::new();
    for found in found {
        let text = |name: &str| found.recipe[name].as_str();
        let recipe = text("recipe").unwrap_or("not told");
        let name = text("reason").map_or_else(|| recipe.to_owned(), |reason| format!("{recipe}: {reason}"));
        *recipes.entry(name).or_default() += 1;
    }
    recipes
}

fn times<'a>(found: impl Iterator<Item = &'a Found>) -> Times {
    let (mut client, mut service): (Vec<f64>, Vec<f64>) =
        found.map(|found| (found.client_time.as_secs_f64() * 1e3, found.took_ms)).unzip();
    let both = |values: &mut [f64]| (percentile(values, 50), percentile(values, 99));
    Times { queries: client.len(), client: both(&mut client), service: both(&mut service) }
}

fn groups(scored: &[(&Question, &Scores)], name: fn(&Question) -> &String) -> BTreeMap<String, Group> {
    let names: BTreeSet<&String> = scored.iter().map(|(question, _)| name(question)).collect();
    let group = |of: &String| {
        let these: Vec<&Scores> = scored.iter().filter(|(question, _)| name(question) == of).map(|(_, scores)| *scores).collect();
        Group { questions: these.len(), means: measure::means(these) }
    };
    names.into_iter().map(|of| (of.clone(), group(of))).collect()
}

fn groups_text(heading: &str, groups: &BTreeMap<String, Group>, overall: &Group) -> String {
    let cell = |group: &Group, name: &str| match group.means.get(name) {
        None => "–".to_owned(),
        Some(m) if name.ends_with("recall@10") => format!("{} ({}–{})", figure(m.mean), figure(m.low), figure(m.high)),
        Some(m) => figure(m.mean),
    };
    let instructions = format!("instr.@{INSTRUCTION_LIMIT}");
    let mut headings = vec![heading, "questions"];
    headings.extend(COLUMNS.iter().map(|(_, shown)| *shown));
    headings.push(&instructions);
    let row = |name: &str, group: &Group| {
        let mut cells = vec![name.to_owned(), group.questions.to_string()];
        cells.extend(COLUMNS.iter().map(|(measure, _)| cell(group, measure)));
        cells.push(cell(group, "instruction_recall"));
        cells
    };
    let mut rows: Vec<Vec<String>> = groups.iter().map(|(name, group)| row(name, group)).collect();
    rows.push(row("all", overall));
    table(&headings, &rows)
}

/// A question of whose evidence something is not among the first ten messages, and what stands there instead.
fn missed(data: &Data, question: &Question, found: &Found) -> Option<Value> {
    if question.unanswerable {
        return None;
    }
    let ranked = if question.instruction { &found.whole.instructions } else { &found.whole.messages };
    let top = measure::first(ranked, if question.instruction { INSTRUCTION_LIMIT } else { 10 });
    let among = |items: &[Item], id: &String| items.iter().position(|item| item.messages.contains(id)).map(|place| place + 1);
    let missing: Vec<Value> = question
        .evidence
        .messages
        .iter()
        .filter(|id| among(top, id).is_none())
        .map(|id| {
            let place = data.place(&question.entity_id, id);
            let item = ranked.iter().find(|item| item.messages.contains(id));
            json!({"message_id": id, "role": place.map(|p| &p.role), "content": place.map(|p| &p.content),
                "rank": among(ranked, id), "fact_rank": among(&found.whole.facts, id), "parts": item.map(parts_json)})
        })
        .collect();
    let instead: Vec<Value> = measure::first(ranked, SHOWN_INSTEAD)
        .iter()
        .map(|item| json!({"message_ids": item.messages, "kind": item.kind, "content": item.text, "score": item.score, "parts": parts_json(item)}))
        .collect();
    (!missing.is_empty()).then(|| {
        json!({"question_id": question.question_id, "entity_id": question.entity_id, "category": question.category,
            "language": question.language, "text": question.text, "missing": missing, "instead": instead})
    })
}

fn parts_json(item: &Item) -> Value {
    item.parts.iter().map(|(name, part)| (name.clone(), json!(rounded(*part)))).collect::<serde_json::Map<_, _>>().into()
}

fn miss_text(miss: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().chars().take(SHOWN_CHARACTERS).collect::<String>();
    let mut lines = vec![format!(
        "   {} [{}, {}] {}",
        text(&miss["question_id"]),
        text(&miss["category"]),
        text(&miss["language"]),
        text(&miss["text"])
    )];
    for missing in miss["missing"].as_array().into_iter().flatten() {
        let rank = missing["rank"].as_u64().map_or("not there".to_owned(), |rank| format!("rank {rank}"));
        lines.push(format!("      missing, {rank}: {} {}", text(&missing["role"]), text(&missing["content"])));
        lines.push(format!("         {}", parts_text(&missing["parts"])));
    }
    for instead in miss["instead"].as_array().into_iter().flatten() {
        lines.push(format!("      instead: {} {}", text(&instead["kind"]), text(&instead["content"])));
        lines.push(format!("         {}", parts_text(&instead["parts"])));
    }
    lines.join("\n")
}

fn parts_text(parts: &Value) -> String {
    let parts = parts.as_object().into_iter().flatten();
    parts.map(|(name, value)| format!("{name} {:.2}", value.as_f64().unwrap_or_default())).collect::<Vec<_>>().join(", ")
}

fn ablation_row(ablation: &Ablation) -> Vec<String> {
    let of = |mean: &Option<Mean>| mean.map_or("–".to_owned(), |mean| figure(mean.mean));
    let change =
        |mean: &Option<Mean>| mean.map_or("–".to_owned(), |m| format!("{:+.3} ({:+.3} to {:+.3})", m.mean, m.low, m.high));
    vec![
        ablation.name.clone(),
        of(&ablation.turn_recall),
        change(&ablation.turn_difference),
        of(&ablation.turn_mrr),
        of(&ablation.fact_recall),
        change(&ablation.fact_difference),
    ]
}

fn ablation_json(ablation: &Ablation) -> Value {
    let of = |mean: &Option<Mean>| mean.as_ref().map(mean_json);
    json!({"name": ablation.name, "turn_recall@10": of(&ablation.turn_recall), "turn_mrr": of(&ablation.turn_mrr),
        "fact_recall@10": of(&ablation.fact_recall), "turn_recall@10_change": of(&ablation.turn_difference),
        "fact_recall@10_change": of(&ablation.fact_difference)})
}

fn mean_json(mean: &Mean) -> Value {
    json!({"questions": mean.questions, "mean": rounded(mean.mean), "low": rounded(mean.low), "high": rounded(mean.high)})
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

fn figure(value: f64) -> String {
    format!("{value:.3}")
}

#[cfg(test)]
mod tests {
    use super::super::{ask, format};
    use super::*;

    fn data() -> Data {
        let talk = json!({"type": "conversation", "entity_id": "a", "language": "en", "sessions": [{
            "session_id": "s", "started_at": "2025-01-01T10:00:00Z", "messages": [
                {"message_id": "m1", "role": "user", "content": "My boat is called Tern"},
                {"message_id": "m2", "role": "assistant", "content": "A fine name"}]}]});
        let question = |id: &str, rest: Value| {
            let mut question = json!({"type": "question", "question_id": id, "entity_id": "a", "text": "what?", "category": id});
            question.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            question.to_string()
        };
        let lines = [
            talk.to_string(),
            question("single", json!({"evidence": {"messages": ["m1"]}, "answer": ["Tern"]})),
            question("wish", json!({"evidence": {"messages": ["m1"]}, "instruction": true})),
            question("none", json!({"unanswerable": true})),
        ];
        format::parse(&lines.join("\n")).unwrap()
    }

    #[test]
    fn a_question_counts_where_it_applies_and_nowhere_else() {
        let data = data();
        let answer = json!({
            "facts": [{"kind": "fact", "content": "boat: tern", "score": 0.5, "sources": [{"message_id": "m1", "session_id": "s"}]}],
            "instructions": [], "messages": [{"message_id": "m1", "session_id": "s", "role": "user", "score": 0.9}]});
        let found: Vec<Found> =
            data.questions.iter().map(|_| Found { whole: ask::ranking(&answer), ..Found::default() }).collect();
        let report = Report::of(&data, &found, true, 9);
        let json = report.json();
        let overall = |name: &str| json["overall"]["measures"][name].clone();
        for name in ["turn_recall@5", "session_recall@10", "turn_mrr", "fact_recall@10", "answer_in_facts@10"] {
            assert_eq!((overall(name)["mean"].as_f64(), overall(name)["questions"].as_u64()), (Some(1.0), Some(1)), "{name}");
        }
        assert_eq!(overall("instruction_recall")["mean"], 0.0);
        assert_eq!(json["overall"]["questions"], 3);
        assert_eq!(json["by_category"]["none"]["measures"], json!({}));
        assert_eq!(json["best_score"]["messages"]["auc"], 0.5);
        assert_eq!(json["misses"].as_array().map(Vec::len), Some(1), "the wish alone was missed");
        let text = report.text();
        for shown in ["turn recall@10", "wish", "instr.@3", "client p99", "missing"] {
            assert!(text.contains(shown), "{shown}: {text}");
        }
    }
}
