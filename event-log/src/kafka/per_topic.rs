//! One member of a group of each topic.
//!
//! An assignor shares out the partitions of everything that a group subscribes to *together*: each member gets as many as the next,
//! but one may get four of a busy topic and another four of an idle one. So each topic has a group of its own, `GROUP.TOPIC`, and
//! each topic's partitions are shared out evenly.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{join_all, try_join_all};

use super::Shared;
use super::consumer::KafkaConsumer;
use crate::seam::{Commit, Committed, Consumer, ConsumerEvent, Fence, LogError, Start};
use crate::topic::{Topic, TopicPartition};

struct Member {
    topic: Topic,
    consumer: KafkaConsumer,
}

/// The members that one process has in the groups of several topics, as one consumer.
pub(super) struct PerTopic {
    members: Vec<Member>,
    /// Who is asked first next time, so that a busy topic does not silence the others.
    turn: usize,
}

/// The part of `all` that concerns a topic.
fn of<T: Clone>(topic: Topic, all: &[T], partition: impl Fn(&T) -> TopicPartition) -> Vec<T> {
    all.iter().filter(|one| partition(one).topic == topic).cloned().collect()
}

impl PerTopic {
    /// Joins each topic's group.
    pub(super) fn join(shared: &Arc<Shared>, group: &str, topics: &[Topic]) -> Result<Self, LogError> {
        let member = |topic: &Topic| {
            KafkaConsumer::join(Arc::clone(shared), group, *topic, topics.len())
                .map(|consumer| Member { topic: *topic, consumer })
        };
        Ok(Self { members: topics.iter().map(member).collect::<Result<_, _>>()?, turn: 0 })
    }

    fn member(&self, topic: Topic) -> Option<&KafkaConsumer> {
        self.members.iter().find(|member| member.topic == topic).map(|member| &member.consumer)
    }

    /// Runs `act` on each member with its part of `all`; those that have none are left alone.
    fn each<T: Clone>(
        &mut self,
        all: &[T],
        partition: impl Fn(&T) -> TopicPartition,
        mut act: impl FnMut(&mut KafkaConsumer, Vec<T>) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        for Member { topic, consumer } in &mut self.members {
            let part = of(*topic, all, &partition);
            if !part.is_empty() {
                act(consumer, part)?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Consumer for PerTopic {
    async fn next(&mut self) -> Result<ConsumerEvent, LogError> {
        let first = self.turn;
        self.turn = (first + 1) % self.members.len().max(1);
        // Each is cancel safe, so those that had nothing to tell have lost nothing.
        let mut asked: Vec<Pin<Box<dyn Future<Output = _> + Send>>> =
            self.members.iter_mut().map(|member| member.consumer.next()).collect();
        asked.rotate_left(first);
        poll_fn(|context| asked.iter_mut().map(|one| one.as_mut().poll(context)).find(Poll::is_ready).unwrap_or(Poll::Pending))
            .await
    }

    async fn assign(&mut self, starts: &[(TopicPartition, Start)]) -> Result<(), LogError> {
        try_join_all(self.members.iter_mut().filter_map(|Member { topic, consumer }| {
            let part = of(*topic, starts, |(partition, _)| *partition);
            (!part.is_empty()).then_some(async move { consumer.assign(&part).await })
        }))
        .await
        .map(drop)
    }

    async fn unassign(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        for Member { topic, consumer } in &mut self.members {
            let part = of(*topic, partitions, |partition| *partition);
            if !part.is_empty() {
                consumer.unassign(&part).await?;
            }
        }
        Ok(())
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.each(partitions, |partition| *partition, |consumer, part| consumer.pause(&part))
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.each(partitions, |partition| *partition, |consumer, part| consumer.resume(&part))
    }

    fn committed(&self, partition: TopicPartition) -> Option<&Committed> {
        self.member(partition.topic)?.committed(partition)
    }

    /// All members commit at the same time. Where one fails the others' offsets may stand: to commit them again changes nothing.
    async fn commit(&mut self, commits: &[Commit]) -> Result<(), LogError> {
        let done = join_all(self.members.iter_mut().filter_map(|Member { topic, consumer }| {
            let part = of(*topic, commits, |commit| commit.partition);
            (!part.is_empty()).then_some(async move { consumer.commit(&part).await })
        }))
        .await;
        done.into_iter().collect()
    }

    fn fence(&self, partition: TopicPartition) -> Option<Fence> {
        self.member(partition.topic)?.fence(partition)
    }

    async fn close(self: Box<Self>, deadline: Duration) {
        join_all(self.members.into_iter().map(|member| Box::new(member.consumer).close(deadline))).await;
    }
}
