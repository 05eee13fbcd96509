//! Each format is told from the file that its programs write, and no bytes make a reader panic. What each file becomes in the end is
//! held by the end-to-end tests.

use proptest::prelude::*;

use super::*;
use crate::cut::Cut;

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/backfill/", $name)).as_slice()
    };
}

const FILES: [(&[u8], Format); 10] = [
    (fixture!("events.jsonl"), Format::Events),
    (fixture!("chatgpt-conversations.json"), Format::ChatGpt),
    (fixture!("claude-conversations.json"), Format::Claude),
    (fixture!("sharegpt.json"), Format::ShareGpt),
    (fixture!("openai.jsonl"), Format::OpenAi),
    (fixture!("langchain.json"), Format::LangChain),
    (fixture!("langgraph.jsonl"), Format::LangChain),
    (fixture!("mem0.json"), Format::Mem0),
    (fixture!("chats.csv"), Format::Csv),
    (fixture!("qa.jsonl"), Format::Json),
];

fn options() -> Options {
    Options { entity: Some("somebody".to_owned()), map: "content=text,user=q,assistant=a".parse().unwrap(), ..Options::default() }
}

fn read(bytes: &[u8], shape: Shape, options: &Options, skip: u64) -> Vec<(u64, Converted)> {
    let Ok(mut cut) = cut(bytes, shape, options, skip) else { return Vec::new() };
    let mut found = Vec::new();
    while let Ok(Some(raw)) = cut.next() {
        found.push((raw.last, convert(shape.format, raw.body, options)));
    }
    found
}

#[test]
fn a_format_is_told_from_its_content() {
    for (bytes, format) in FILES {
        let shape = tell(bytes, &options()).unwrap();
        assert_eq!(shape.format, format);
        let cut_short = tell(&bytes[..bytes.len().min(900)], &options()).map(|shape| shape.format);
        assert_eq!(cut_short, Ok(format), "by the beginning alone");
    }
    for (bytes, part) in [
        (&b""[..], "empty"),
        (b" \n", "empty"),
        (b"\0\xff\0", "binary"),
        (b"{\"a\":1}", "--map"),
        (b"a,b\n1,2\n", "--map entity"),
    ] {
        let error = tell(bytes, &Options::default()).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    let named = Options { format: Some(Format::OpenAi), ..Options::default() };
    assert_eq!(tell(b"{\"a\":1}\n{\"a\":2}", &named).unwrap(), Shape { format: Format::OpenAi, layout: Layout::Lines });
}

#[test]
fn from_any_record_on_the_rest_is_read() {
    for (bytes, _) in FILES {
        let shape = tell(bytes, &options()).unwrap();
        let all = read(bytes, shape, &options(), 0);
        assert!(!all.is_empty());
        for (n, (last, _)) in all.iter().enumerate() {
            assert_eq!(read(bytes, shape, &options(), *last), all[n + 1..], "{shape:?} from behind {last}");
        }
    }
}

#[test]
fn two_readings_make_the_same_events() {
    for (bytes, _) in FILES {
        let shape = tell(bytes, &options()).unwrap();
        assert_eq!(read(bytes, shape, &options(), 0), read(bytes, shape, &options(), 0));
    }
}

fn formats() -> impl Strategy<Value = Shape> {
    let formats = proptest::sample::select(FORMATS.map(|(format, _)| format).to_vec());
    let layouts = prop_oneof![Just(Layout::Lines), any::<bool>().prop_map(Layout::Elements), Just(Layout::Csv(b','))];
    (formats, layouts).prop_map(|(format, layout)| Shape { format, layout })
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), shape in formats(), skip in 0_u64..4) {
        let _ = tell(&bytes, &options());
        read(&bytes, shape, &options(), skip);
    }

    /// Files of the right form with something wrong in them, read as any format.
    #[test]
    fn no_broken_file_panics(file in 0..FILES.len(), shape in formats(), at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = FILES[file].0.to_vec();
        let place = at.index(bytes.len());
        bytes[place] = with;
        bytes.truncate(cut.index(bytes.len()) + 1);
        read(&bytes, shape, &options(), 0);
        if let Ok(told) = tell(&bytes, &options()) && !matches!(told.layout, Layout::Parquet | Layout::Sqlite) {
            read(&bytes, told, &options(), 0);
        }
    }
}
