//! The file as text, by size: parsing it, and splicing new values into one section.
//!
//! `cargo bench --features internals --bench document`

#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use feishu_refresh::internals;

/// A file with this many profiles, as runs leave it.
fn file(profiles: usize) -> String {
    let section = |index: usize| {
        format!(
            "\n; number {index}\n[p{index}]\napi = v1\nuser_access_token = u-{index:064}\n\
             user_access_token_expires_at = 2030-01-01T00:00:00Z\nrefresh_token = ur-{index:064}\n\
             refresh_token_expires_at = 2030-02-01T00:00:00Z\nrefresh_token_spent = {index:016x} {index:016x}\n"
        )
    };
    "[ID]\napp_id = cli_a\napp_secret = b\n".to_owned()
        + &(0..profiles).map(section).collect::<String>()
}

fn documents(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("document");
    for profiles in [1, 10, 100, 1000] {
        let text = file(profiles);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_with_input(BenchmarkId::new("parse", profiles), &text, |b, text| {
            b.iter(|| internals::parse(black_box(text.as_bytes())));
        });
        let values = [("user_access_token", "u-new"), ("refresh_token", "ur-new")];
        group.bench_with_input(BenchmarkId::new("splice", profiles), &text, |b, text| {
            b.iter(|| internals::splice(black_box(text.as_bytes()), "p0", &values));
        });
    }
    group.finish();
}

criterion_group!(benches, documents);
criterion_main!(benches);
