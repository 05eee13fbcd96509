//! The built-in model: processor time for a short sentence, alone and in a batch, and the product of int8 vectors.
//!
//! The floor of a sentence is its multiplications in one large product of floats, through the same matrix crate on the same thread:
//! above 1 where bytes do the work. The floor of vectors is one pass over their bytes that adds them up.

use std::hint::black_box;
use std::time::Instant;

use memori_embedding::builtin::{self, Session};
use memori_embedding::{dot_rows, model_dir, open_builtin};
use memori_service::Settings;

use crate::Options;
use crate::report::{Better, Report};

/// Eight words; with the marks of begin and end some thirteen pieces.
const SENTENCE: &str = "The user likes jasmine tea in Lisbon and";
const BATCH: usize = 32;
const SIDE: usize = 384;
const VECTORS: usize = 1_000;

/// Milliseconds of this thread on a processor; where the system does not tell, of the clock.
fn processor_ms(since: Instant) -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let ns = told.and_then(|text| text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()));
    ns.map_or_else(|| since.elapsed().as_secs_f64() * 1e3, |ns| ns / 1e6)
}

/// Processor milliseconds of one call, over `count` of them.
fn each(count: u32, mut call: impl FnMut()) -> f64 {
    let since = Instant::now();
    call();
    let before = processor_ms(since);
    for _ in 0..count {
        call();
    }
    (processor_ms(since) - before) / f64::from(count)
}

pub(crate) fn run(options: Options, report: &mut Report) -> anyhow::Result<()> {
    let model = open_builtin(&model_dir(&Settings::default())?)?;
    let mut session = Session::default();
    let pieces = model.ids(SENTENCE, &mut session)?.len();
    let count = if options.quick { 20 } else { 200 };

    let (left, right, mut product) = (vec![0.5_f32; SIDE * SIDE], vec![0.25_f32; SIDE * SIDE], vec![0.0_f32; SIDE * SIDE]);
    let mut large_product = || {
        let side = SIDE.cast_signed();
        // SAFETY: three square matrices of this side, of which one alone is written.
        unsafe {
            gemm::gemm(
                SIDE,
                SIDE,
                SIDE,
                product.as_mut_ptr(),
                1,
                side,
                false,
                left.as_ptr(),
                1,
                side,
                right.as_ptr(),
                1,
                side,
                0.0_f32,
                1.0_f32,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    };
    #[expect(clippy::cast_precision_loss, reason = "some millions")]
    let mut floor = |pieces: usize, sentences: usize| {
        let share = builtin::multiplications(pieces, sentences) as f64 / (SIDE * SIDE * SIDE) as f64;
        each(count, &mut large_product) * share / sentences as f64
    };
    for (case, sentences) in [("alone", 1), ("in a batch", BATCH)] {
        let texts = vec![SENTENCE; sentences];
        let calls = count / u32::try_from(sentences)? + 1;
        let (mut ours, mut floors) = (Vec::new(), Vec::new());
        for _ in 0..options.runs {
            let mut ended = Ok(());
            #[expect(clippy::cast_precision_loss, reason = "a few")]
            ours.push(
                each(calls, || {
                    let ran = model.run(texts.iter().copied(), &mut session, |vector| {
                        black_box(vector);
                    });
                    if ran.is_err() {
                        ended = ran;
                    }
                }) / sentences as f64,
            );
            ended?;
            floors.push(floor(pieces * sentences, sentences));
        }
        report.add("embedding", &format!("{pieces} pieces {case}"), "CPU ms", Better::Lower, &ours, &floors);
    }

    let query: Vec<i8> = (0..builtin::DIMENSIONS).map(|n| i8::try_from(n % 127).unwrap_or(0)).collect();
    let rows: Vec<i8> = query.iter().copied().cycle().take(VECTORS * query.len()).collect();
    let mut out = vec![0; VECTORS];
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..options.runs {
        ours.push(each(count, || dot_rows(black_box(&query), black_box(&rows), &mut out)) * 1e3);
        floors.push(
            each(count, || {
                let sum = black_box(&rows)
                    .as_chunks::<8>()
                    .0
                    .iter()
                    .fold(0_u64, |sum, bytes| sum.wrapping_add(u64::from_ne_bytes(bytes.map(i8::cast_unsigned))));
                black_box(sum);
            }) * 1e3,
        );
    }
    report.add("embedding", "1000 int8 vectors of 512", "CPU µs", Better::Lower, &ours, &floors);
    Ok(())
}
