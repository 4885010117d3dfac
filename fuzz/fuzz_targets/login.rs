#![no_main]

use feishu_refresh::internals::{ReplyTo, code_of};
use feishu_refresh_fuzz::{judged, refresh};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    refresh(ReplyTo::Code, input, None);
    let _ = judged(ReplyTo::Prompt, input);
    refresh(ReplyTo::Poll, input, None);
    // A pasted text is either a code for this request or refused.
    let pasted = String::from_utf8_lossy(input);
    if let Some(code) = code_of(&pasted, "the-state") {
        let is_answer = pasted.contains('?');
        assert!(!code.is_empty() && (!is_answer || pasted.contains("state")));
    }
});
