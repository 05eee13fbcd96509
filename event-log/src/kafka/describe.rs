//! The ids of topics. The `rdkafka` crate has no call for them, so librdkafka's own (`DescribeTopics`) is called here.
//!
//! All unsafe code of this crate is in this file. Every object that librdkafka hands over is owned by a guard that destroys it,
//! and nothing that borrows from one outlives it.

use std::ffi::{CStr, CString, c_char};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};

use crate::seam::LogError;

/// Destroys what it holds.
struct Guard<T> {
    pointer: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Guard<T> {
    fn new(pointer: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Result<Self, LogError> {
        NonNull::new(pointer)
            .map(|pointer| Self { pointer, destroy })
            .ok_or_else(|| LogError::Transient("the Kafka library is out of memory".to_owned()))
    }

    fn as_ptr(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from librdkafka's constructor that goes with `destroy`, and this is the only owner.
        unsafe { (self.destroy)(self.pointer.as_ptr()) }
    }
}

/// The id of each topic, in the order of `names`. Blocks for at most `timeout`.
pub(super) fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    names: &[&str],
    timeout: Duration,
) -> Result<Vec<String>, LogError> {
    let owned: Vec<CString> = names
        .iter()
        .map(|name| CString::new(*name))
        .collect::<Result<_, _>>()
        .map_err(|error| LogError::Fatal(format!("the name of a topic: {error}")))?;
    let mut pointers: Vec<*const c_char> = owned.iter().map(|name| name.as_ptr()).collect();
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let client = client.native_ptr();

    // SAFETY: `client` is alive for the whole call, because it is borrowed. librdkafka copies the names out of the array, the
    // options and the collection are read before `rd_kafka_DescribeTopics` returns, and the result goes to our own queue only.
    let (queue, _options, _collection) = unsafe {
        let queue = Guard::new(sys::rd_kafka_queue_new(client), sys::rd_kafka_queue_destroy)?;
        let options = Guard::new(
            sys::rd_kafka_AdminOptions_new(client, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS),
            sys::rd_kafka_AdminOptions_destroy,
        )?;
        let mut message: [c_char; 256] = [0; 256];
        sys::rd_kafka_AdminOptions_set_request_timeout(options.as_ptr(), timeout_ms, message.as_mut_ptr(), message.len());
        let collection = Guard::new(
            sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()),
            sys::rd_kafka_TopicCollection_destroy,
        )?;
        sys::rd_kafka_DescribeTopics(client, collection.as_ptr(), options.as_ptr(), queue.as_ptr());
        (queue, options, collection)
    };

    let event = await_result(&queue, timeout + Duration::from_secs(1))?;
    // SAFETY: `event` is alive until the end of this function, everything borrowed from it is copied before that, and every
    // pointer is looked at for null first. The result has `count` descriptions.
    let mut found = unsafe {
        let code = sys::rd_kafka_event_error(event.as_ptr());
        if code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(LogError::Transient(format!(
                "describe topics: {}",
                text(sys::rd_kafka_event_error_string(event.as_ptr()))
            )));
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event.as_ptr());
        if result.is_null() {
            return Err(LogError::Transient("describe topics: no answer".to_owned()));
        }
        let mut count = 0;
        let descriptions = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        let mut found = Vec::with_capacity(count);
        for i in 0..count {
            let description = *descriptions.add(i);
            let name = text(sys::rd_kafka_TopicDescription_name(description));
            let error = sys::rd_kafka_TopicDescription_error(description);
            if !error.is_null() && sys::rd_kafka_error_code(error) != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                let said = text(sys::rd_kafka_error_string(error));
                return Err(LogError::Fatal(format!("topic {name}: {said}; make the topics with `memori topics create`")));
            }
            let id = sys::rd_kafka_TopicDescription_topic_id(description);
            if id.is_null() {
                return Err(LogError::Fatal(format!("the broker gives topic {name} no id: it is older than Kafka 2.8")));
            }
            found.push((name, text(sys::rd_kafka_Uuid_base64str(id))));
        }
        found
    };
    names
        .iter()
        .map(|name| {
            let at = found.iter().position(|(n, _)| n == name);
            at.map(|at| found.swap_remove(at).1)
                .ok_or_else(|| LogError::Transient(format!("describe topics: no answer for {name}")))
        })
        .collect()
}

/// The one event that the request makes.
fn await_result(queue: &Guard<sys::rd_kafka_queue_t>, timeout: Duration) -> Result<Guard<sys::rd_kafka_event_t>, LogError> {
    let until = Instant::now() + timeout;
    loop {
        let left = i32::try_from(until.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is alive, and the event is ours to destroy.
        let event = unsafe { sys::rd_kafka_queue_poll(queue.as_ptr(), left) };
        if event.is_null() {
            return Err(LogError::Transient("describe topics: no answer in time".to_owned()));
        }
        let event = Guard::new(event, sys::rd_kafka_event_destroy)?;
        // SAFETY: the event is alive.
        if unsafe { sys::rd_kafka_event_type(event.as_ptr()) } == sys::RD_KAFKA_EVENT_DESCRIBETOPICS_RESULT {
            return Ok(event);
        }
    }
}

/// # Safety
/// `pointer` is null or a C string that is alive.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: as promised by the caller.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}
