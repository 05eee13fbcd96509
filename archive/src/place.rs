//! Where things lie in an archive: names of manifests and data files, and back.

use memori_event_log::{LogIdentity, Topic, TopicPartition};
use serde::{Deserialize, Serialize};

/// Under which manifests lie.
pub(crate) const MANIFESTS: &str = "log";
/// Under which data files lie, by tenant and day.
pub(crate) const DATA: &str = "data";
/// Records whose key names no tenant.
const NOBODY: &str = "";

/// One partition of one topic of one log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The cluster.
    pub cluster_id: String,
    /// The topic's name without the prefix.
    pub topic: String,
    /// The topic's id: one that was deleted and made again is another.
    pub topic_id: String,
    /// The partition.
    pub partition: i32,
}

impl Place {
    /// Of a partition of the log that is named so; `None` where it has no such topic.
    #[must_use]
    pub fn of(identity: &LogIdentity, partition: TopicPartition) -> Option<Self> {
        Some(Self {
            cluster_id: identity.cluster_id.clone(),
            topic: partition.topic.as_str().to_owned(),
            topic_id: identity.topic_ids.get(&partition.topic)?.clone(),
            partition: partition.partition,
        })
    }

    /// As the log names it.
    #[must_use]
    pub fn source(&self) -> Option<TopicPartition> {
        Some(TopicPartition { topic: Topic::parse(&self.topic)?, partition: self.partition })
    }

    /// The folder of its manifests.
    pub(crate) fn folder(&self) -> String {
        format!("{MANIFESTS}/{}/{}/{}/{}", plain(&self.cluster_id), plain(&self.topic), plain(&self.topic_id), self.partition)
    }

    /// The name of a manifest. Who puts the first revision where nothing is yet has the range that begins there.
    pub(crate) fn manifest(&self, from: i64, revision: u32) -> String {
        format!("{}/{from:020}.{revision:06}.json", self.folder())
    }

    /// The name of a data file. `maker` keeps apart what several made.
    pub(crate) fn data(&self, tenant: &str, day: &str, from: i64, maker: &str) -> String {
        format!(
            "{}/day={day}/{}/{}/{}/{from:020}-{maker}.avro",
            tenant_folder(tenant),
            plain(&self.topic),
            plain(&self.topic_id),
            self.partition
        )
    }
}

/// The folder that holds all of a tenant's records, and nothing else.
#[must_use]
pub(crate) fn tenant_folder(tenant: &str) -> String {
    format!("{DATA}/tenant={}", plain(tenant))
}

/// Which manifest an object's file name is of: (from, revision).
pub(crate) fn of_manifest(name: &str) -> Option<(i64, u32)> {
    let (from, revision) = name.strip_suffix(".json")?.split_once('.')?;
    Some((from.parse().ok()?, revision.parse().ok()?))
}

/// What a data file's full name says: (topic, topic id, partition, from), as they are written there.
pub(crate) fn of_data(path: &str) -> Option<(&str, &str, i32, i64)> {
    let mut parts = path.rsplit('/');
    let (name, partition, topic_id, topic) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let (from, _) = name.strip_suffix(".avro")?.split_once('-')?;
    Some((topic, topic_id, partition.parse().ok()?, from.parse().ok()?))
}

/// Whose record it is, by its key.
pub(crate) fn tenant_of(key: &[u8]) -> &str {
    memori_schemas::ids::parse_log_key(key).map_or(NOBODY, |(tenant, _)| tenant)
}

/// The day of a time in milliseconds since 1970, UTC.
pub(crate) fn day_of(at_ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(at_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.to_zoned(jiff::tz::TimeZone::UTC).date().to_string()
}

/// Any text as one part of a path, readable where it is plain: other bytes as `=XX`.
pub(crate) fn plain(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len().max(1));
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => out.push(char::from(byte)),
            b'.' if !out.is_empty() => out.push('.'),
            other => {
                let _ = write!(out, "={other:02X}");
            }
        }
    }
    if out.is_empty() { "=".to_owned() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        let place = Place { cluster_id: "c/1".into(), topic: "facts.live".into(), topic_id: "id".into(), partition: 3 };
        assert_eq!(place.manifest(7, 2), "log/c=2F1/facts.live/id/3/00000000000000000007.000002.json");
        assert_eq!(of_manifest("00000000000000000007.000002.json"), Some((7, 2)));
        let data = place.data("acme/../x", "2026-01-02", 7, "m");
        assert_eq!(data, "data/tenant=acme=2F..=2Fx/day=2026-01-02/facts.live/id/3/00000000000000000007-m.avro");
        assert_eq!(of_data(&data), Some(("facts.live", "id", 3, 7)));
        assert_eq!((tenant_folder(""), plain("..")), ("data/tenant==".into(), "=2E.".into()));
        assert_eq!(day_of(1_700_000_000_000), "2023-11-14");
    }
}
