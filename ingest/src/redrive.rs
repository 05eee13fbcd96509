//! Putting dead-lettered events back: what may go again, as which copy, and how fast.
//!
//! Promises: an event goes again only where it ends in a dead letter just now, as a copy that keeps its id, its content and its times,
//! with the next `attempt` and the place of its first copy as `origin`. So an erasure that took the first copy takes this one; the same
//! redrive twice makes two equal copies, of which one outcome counts. Everything here is decided without I/O.

mod allowance;
mod recent;

use memori_event_log::Topic;
use memori_schemas::{ConversationEvent, Lane, LogRecordBody, Origin, framing};
use serde::Deserialize;

pub(crate) use allowance::Allowance;
pub(crate) use recent::{Copy, RecentCopies};

/// Why a dead letter, or one of its events, does not go again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Refusal {
    NotFound,
    Erased,
    Applied,
    Superseded,
    Unreadable,
    Sealed,
    OtherLog,
    NotInLog,
    UnderWay,
    NotTaken,
}

impl Refusal {
    pub(crate) const ALL: [Self; 10] = [
        Self::NotFound,
        Self::Erased,
        Self::Applied,
        Self::Superseded,
        Self::Unreadable,
        Self::Sealed,
        Self::OtherLog,
        Self::NotInLog,
        Self::UnderWay,
        Self::NotTaken,
    ];

    /// The name in answers and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Erased => "erased",
            Self::Applied => "applied",
            Self::Superseded => "superseded",
            Self::Unreadable => "unreadable",
            Self::Sealed => "sealed",
            Self::OtherLog => "other_log",
            Self::NotInLog => "not_in_log",
            Self::UnderWay => "under_way",
            Self::NotTaken => "not_taken",
        }
    }

    /// In words, for people.
    pub(crate) fn detail(self) -> &'static str {
        match self {
            Self::NotFound => "there is no such dead letter",
            Self::Erased => "the event was erased on request, and stays so",
            Self::Applied => "the event has been applied since",
            Self::Superseded => "a later dead letter of the event counts: redrive that one",
            Self::Unreadable => "its bytes cannot be read as an event by this version",
            Self::Sealed => "its body is sealed, which this version cannot read",
            Self::OtherLog => {
                "its record stands in a topic that is no longer this log's, so erasures could not find its first copy"
            }
            Self::NotInLog => "the event's own record is not in the log any more",
            Self::UnderWay => "it was redriven a moment ago, and what came of that is not known yet",
            Self::NotTaken => "the log does not take it",
        }
    }
}

/// A dead letter as the writer hands it out.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Candidate {
    pub(crate) id: String,
    /// Where a listing goes on after it.
    #[serde(default)]
    pub(crate) cursor: Option<String>,
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) source_topic: String,
    #[serde(default)]
    pub(crate) source_topic_id: String,
    #[serde(default)]
    pub(crate) partition: i32,
    #[serde(default)]
    pub(crate) offset: i64,
    #[serde(default)]
    pub(crate) entity_key: Option<String>,
    pub(crate) events: Vec<Ended>,
    #[serde(default)]
    pub(crate) payload: Option<String>,
}

/// An event that ends in it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Ended {
    pub(crate) event_id: String,
    pub(crate) content_hash: String,
    pub(crate) state: String,
    /// Of its current outcome, where it has one.
    #[serde(default)]
    pub(crate) attempt: Option<i32>,
    /// The lane of the copy that ended so,
    #[serde(default)]
    pub(crate) lane: Option<String>,
    /// and its offset.
    #[serde(default)]
    pub(crate) offset: Option<i64>,
}

/// Where the record of an event to be redriven is to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bytes {
    /// The letter has it.
    InLetter,
    /// It stands in the log; the letter is about something that was made from it.
    InLog,
}

/// One event of a letter that may go again, if its record says what the letter says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Which of the letter's events; `None` where the letter names none and the bytes must tell.
    pub(crate) event: Option<usize>,
    pub(crate) bytes: Bytes,
    /// Where the copy stands that ended.
    pub(crate) place: Origin,
}

fn refusal_of(state: &str) -> Refusal {
    match state {
        "not_found" => Refusal::NotFound,
        "erased" => Refusal::Erased,
        "applied" => Refusal::Applied,
        "superseded" => Refusal::Superseded,
        _ => Refusal::Unreadable,
    }
}

/// What of a letter may go again. `own_topic_id` is the log's id of the letter's source topic.
pub(crate) fn wanted(letter: &Candidate, own_topic_id: Option<&str>) -> Vec<Result<Wanted, Refusal>> {
    let topic = Topic::parse(&letter.source_topic);
    let lane = topic.and_then(Topic::lane);
    let (Some(topic), Some(lane)) = (topic, lane) else { return vec![Err(refusal_of(&letter.state))] };
    let of_conversations = topic == Topic::conversations(lane);
    let place = Origin { lane, offset: letter.offset };
    let another_log = own_topic_id != Some(letter.source_topic_id.as_str());
    if letter.events.is_empty() {
        // Perhaps a newer version reads what an older one could not.
        let may = letter.state == "unreadable" && of_conversations && letter.payload.is_some();
        let wanted = Wanted { event: None, bytes: Bytes::InLetter, place };
        return vec![match may {
            true if another_log => Err(Refusal::OtherLog),
            true => Ok(wanted),
            false => Err(refusal_of(&letter.state)),
        }];
    }
    let of_event = |(number, event): (usize, &Ended)| {
        if event.state != "open" {
            return Err(refusal_of(&event.state));
        }
        if another_log {
            return Err(Refusal::OtherLog);
        }
        if of_conversations {
            return Ok(Wanted { event: Some(number), bytes: Bytes::InLetter, place });
        }
        let lane = event.lane.as_deref().and_then(Lane::parse).ok_or(Refusal::Unreadable)?;
        let offset = event.offset.ok_or(Refusal::Unreadable)?;
        Ok(Wanted { event: Some(number), bytes: Bytes::InLog, place: Origin { lane, offset } })
    };
    letter.events.iter().enumerate().map(of_event).collect()
}

/// The copy that goes again, from the bytes of the record that ended.
pub(crate) fn copy_of(letter: &Candidate, wanted: &Wanted, payload: &[u8]) -> Result<ConversationEvent, Refusal> {
    let Ok(LogRecordBody::Conversation(mut event)) = framing::decode(payload) else { return Err(Refusal::Unreadable) };
    if event.key_id.is_some() {
        return Err(Refusal::Sealed);
    }
    // Whose it is, the letter's key said; a record that says otherwise stood in another's place.
    if letter.entity_key.as_deref() != Some(&*event.entity_key().to_string()) {
        return Err(Refusal::Unreadable);
    }
    let ended = wanted.event.and_then(|number| letter.events.get(number));
    let is_that = |ended: &Ended| ended.event_id == event.event_id && ended.content_hash == event.content_hash.to_string();
    if !ended.is_none_or(is_that) {
        return Err(Refusal::Unreadable);
    }
    let attempt = ended.and_then(|ended| ended.attempt).unwrap_or(event.attempt);
    event.attempt = attempt.saturating_add(1);
    event.origin = event.origin.or(Some(wanted.place));
    Ok(event)
}

#[cfg(test)]
mod tests {
    use memori_schemas::{ContentFormat, Message, Micros, Role, Supplied, ids};

    use super::*;

    fn event() -> ConversationEvent {
        let messages = vec![Message {
            message_id: None,
            role: Role::User,
            name: None,
            content: "I like tea.".into(),
            content_format: ContentFormat::Text,
            created_at: None,
        }];
        ConversationEvent {
            tenant: "acme".into(),
            entity_id: "e".into(),
            process_id: None,
            session_id: None,
            event_id: "x".into(),
            content_hash: ids::content_hash("e", None, &messages, &[]),
            occurred_at: Micros(1),
            accepted_at: Micros(2),
            messages,
            metadata: Vec::new(),
            supplied: Supplied::default(),
            spooled: true,
            attempt: 0,
            origin: None,
            key_id: None,
        }
    }

    fn bytes(event: &ConversationEvent) -> Vec<u8> {
        framing::encode(&LogRecordBody::Conversation(event.clone())).unwrap()
    }

    fn letter(event: &ConversationEvent, topic: &str, state: &str, attempt: Option<i32>) -> Candidate {
        let ended = Ended {
            event_id: event.event_id.clone(),
            content_hash: event.content_hash.to_string(),
            state: state.into(),
            attempt,
            lane: Some("backfill".into()),
            offset: Some(3),
        };
        Candidate {
            id: "id".into(),
            cursor: None,
            state: state.into(),
            source_topic: topic.into(),
            source_topic_id: "ours".into(),
            partition: 1,
            offset: 7,
            entity_key: Some(event.entity_key().to_string()),
            events: vec![ended],
            payload: Some("there".into()),
        }
    }

    #[test]
    fn an_open_letter_goes_again_as_the_next_attempt_with_its_first_place() {
        let first = event();
        let open = letter(&first, "conversations.live", "open", Some(0));
        let wanted = wanted(&open, Some("ours")).remove(0).unwrap();
        let copy = copy_of(&open, &wanted, &bytes(&first)).unwrap();
        let origin = Some(Origin { lane: Lane::Live, offset: 7 });
        assert_eq!(copy, ConversationEvent { attempt: 1, origin, ..first.clone() }, "all else stays");
        assert_eq!(copy_of(&open, &wanted, &bytes(&first)).unwrap(), copy, "the same again is the same");

        // Once more, from the letter about that copy: the first copy's place stays the origin.
        let again = Candidate { offset: 90, ..letter(&copy, "conversations.live", "open", Some(1)) };
        let wanted = super::wanted(&again, Some("ours")).remove(0).unwrap();
        assert_eq!(copy_of(&again, &wanted, &bytes(&copy)).unwrap(), ConversationEvent { attempt: 2, origin, ..first });
    }

    #[test]
    fn of_a_letter_about_facts_the_events_own_record_goes_again() {
        let first = event();
        let open = letter(&first, "facts.live", "open", Some(4));
        let wanted = wanted(&open, Some("ours")).remove(0).unwrap();
        let place = Origin { lane: Lane::Backfill, offset: 3 };
        assert_eq!(wanted, Wanted { event: Some(0), bytes: Bytes::InLog, place });
        let copy = copy_of(&open, &wanted, &bytes(&first)).unwrap();
        assert_eq!((copy.attempt, copy.origin), (5, Some(place)));
    }

    #[test]
    fn what_does_not_end_in_the_letter_does_not_go_again() {
        let first = event();
        for (state, refusal) in [
            ("applied", Refusal::Applied),
            ("erased", Refusal::Erased),
            ("superseded", Refusal::Superseded),
            ("unreadable", Refusal::Unreadable),
        ] {
            let letter = letter(&first, "conversations.live", state, Some(0));
            assert_eq!(wanted(&letter, Some("ours")), [Err(refusal)]);
        }
        let open = letter(&first, "conversations.live", "open", Some(0));
        assert_eq!(wanted(&open, Some("another's")), [Err(Refusal::OtherLog)]);
        assert_eq!(wanted(&Candidate { source_topic: "controls".into(), ..open.clone() }, None), [Err(Refusal::Unreadable)]);
        let gone = Candidate { state: "not_found".into(), source_topic: String::new(), events: Vec::new(), ..open.clone() };
        assert_eq!(wanted(&gone, None), [Err(Refusal::NotFound)]);
    }

    #[test]
    fn bytes_that_are_not_the_letters_event_do_not_go() {
        let first = event();
        let open = letter(&first, "conversations.live", "open", Some(0));
        let wanted = wanted(&open, Some("ours")).remove(0).unwrap();
        let refused = |event: ConversationEvent| copy_of(&open, &wanted, &bytes(&event)).unwrap_err();
        assert_eq!(copy_of(&open, &wanted, b"nonsense"), Err(Refusal::Unreadable));
        assert_eq!(refused(ConversationEvent { key_id: Some("k".into()), ..first.clone() }), Refusal::Sealed);
        assert_eq!(refused(ConversationEvent { entity_id: "other".into(), ..first.clone() }), Refusal::Unreadable);
        assert_eq!(refused(ConversationEvent { tenant: "other".into(), ..first.clone() }), Refusal::Unreadable);
        assert_eq!(refused(ConversationEvent { event_id: "y".into(), ..first }), Refusal::Unreadable);
    }

    #[test]
    fn a_letter_without_events_goes_where_its_bytes_can_be_read_now() {
        let first = event();
        let blank = Candidate { events: Vec::new(), ..letter(&first, "conversations.backfill", "unreadable", None) };
        let wanted = wanted(&blank, Some("ours")).remove(0).unwrap();
        let copy = copy_of(&blank, &wanted, &bytes(&first)).unwrap();
        assert_eq!((copy.attempt, copy.origin), (1, Some(Origin { lane: Lane::Backfill, offset: 7 })));
        assert_eq!(copy_of(&blank, &wanted, b"still nonsense"), Err(Refusal::Unreadable));
        let of_facts = Candidate { source_topic: "facts.live".into(), ..blank.clone() };
        assert_eq!(super::wanted(&of_facts, Some("ours")), [Err(Refusal::Unreadable)]);
        let erased = Candidate { state: "erased".into(), payload: None, ..blank };
        assert_eq!(super::wanted(&erased, Some("ours")), [Err(Refusal::Erased)]);
    }

    #[test]
    fn names_are_one_refusals_each() {
        let names: std::collections::BTreeSet<&str> = Refusal::ALL.into_iter().map(Refusal::as_str).collect();
        assert_eq!(names.len(), Refusal::ALL.len());
    }
}
