#![no_main]

use feishu_refresh::internals::Asked;
use feishu_refresh_fuzz::judged;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = judged(Asked::AppToken, input);
});
