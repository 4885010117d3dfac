#![no_main]

use feishu_refresh::Api;
use feishu_refresh::internals::ReplyTo;
use feishu_refresh_fuzz::refresh;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    refresh(ReplyTo::Refresh(Api::V2), input, None);
});
