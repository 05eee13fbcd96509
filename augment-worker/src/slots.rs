//! Single-valued slots: what a person has one of at a time. One closed list for all extractors, so that a value which one of them
//! found is closed by a later one, whichever found that.

use memori_schemas::normalise::normalise;

/// The slots that stand for themselves.
pub const NAMES: [&str; 42] = [
    "name",
    "last name",
    "surname",
    "nickname",
    "pronouns",
    "age",
    "birthday",
    "born_on",
    "born_in",
    "email",
    "phone number",
    "address",
    "lives_in",
    "city",
    "country",
    "hometown",
    "nationality",
    "time zone",
    "native language",
    "job",
    "works_at",
    "boss",
    "manager",
    "salary",
    "budget",
    "school",
    "university",
    "major",
    "goal",
    "partner",
    "marital_status",
    "diet",
    "height",
    "weight",
    "shoe size",
    "blood type",
    "zodiac sign",
    "star sign",
    "mother tongue",
    "first language",
    "password hint",
    "number",
];

/// The slot of which everybody has one per object: what somebody likes or dislikes.
pub const ATTITUDE: &str = "attitude";

/// The longest object that makes a slot, in bytes.
const MAX_OBJECT_BYTES: usize = 120;

/// The slot `name` of `owner`, as it stands in a fact: `alice/lives_in`, `alice/attitude/tea`. `None` for a name that is not in the
/// list, or an attitude towards nothing.
#[must_use]
pub fn slot(owner: &str, name: &str, object: Option<&str>) -> Option<String> {
    let owner = normalise(owner);
    if owner.is_empty() {
        return None;
    }
    if NAMES.contains(&name) {
        return Some(format!("{owner}/{name}"));
    }
    let object = object.filter(|_| name == ATTITUDE).map(normalise)?;
    let bare = bare_object(&object);
    (!bare.is_empty() && bare.len() <= MAX_OBJECT_BYTES).then(|| format!("{owner}/{ATTITUDE}/{bare}"))
}

/// An object without its article, so that "a car" and "my car" meet.
pub(crate) fn bare_object(object: &str) -> &str {
    ["a ", "an ", "the ", "my ", "any "].iter().find_map(|article| object.strip_prefix(article)).unwrap_or(object)
}

#[cfg(test)]
mod tests {
    use super::slot;

    #[test]
    fn a_slot_has_an_owner_and_a_name_of_the_list() {
        assert_eq!(slot("Alice", "lives_in", Some("Paris")).as_deref(), Some("alice/lives_in"));
        assert_eq!(slot("User", "attitude", Some("the Opera.")).as_deref(), Some("user/attitude/opera"));
        for (owner, name, object) in
            [("Alice", "mood", None), ("Alice", "attitude", None), ("Alice", "attitude", Some(" ")), (" ", "job", None)]
        {
            assert_eq!(slot(owner, name, object), None);
        }
    }
}
