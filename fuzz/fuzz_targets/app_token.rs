#![no_main]

use feishu_refresh::internals::ReplyTo;
use feishu_refresh_fuzz::judged;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = judged(ReplyTo::AppToken, input);
});
