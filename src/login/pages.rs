//! The small pages that the browser ends on, in English and Chinese.

use crate::protocol::consent::Denial;

/// A page, and the HTTP status it goes with.
#[derive(Debug)]
pub(crate) struct Page {
    status: &'static str,
    /// A sign that is seen before anything is read.
    sign: &'static str,
    english: (&'static str, &'static str),
    chinese: (&'static str, &'static str),
}

/// The pair is saved.
pub(crate) static SAVED: Page = Page {
    status: "200 OK",
    sign: "✓",
    english: (
        "Logged in",
        "The tokens are saved. You can close this page.",
    ),
    chinese: ("登录成功", "令牌已保存，可以关闭此页面。"),
};

/// The consent came, but the login ended in an error: perhaps with a pair that is safe all the same.
pub(crate) static FAILED: Page = Page {
    status: "200 OK",
    sign: "!",
    english: (
        "Something went wrong",
        "The consent came, but the login did not end well. The terminal says why, and what to do.",
    ),
    chinese: (
        "登录出错",
        "已收到授权，但登录未能顺利完成。原因和处理方法请查看终端。",
    ),
};

static REFUSED: Page = Page {
    status: "200 OK",
    sign: "×",
    english: (
        "Consent refused",
        "Nothing was changed. You can close this page.",
    ),
    chinese: ("授权被拒绝", "未作任何更改，可以关闭此页面。"),
};

static NO_CONSENT: Page = Page {
    status: "200 OK",
    sign: "!",
    english: (
        "No consent",
        "The consent page ended in an error, and nothing was changed. The terminal says what to do.",
    ),
    chinese: (
        "未获得授权",
        "授权页面返回错误，未作任何更改。处理方法请查看终端。",
    ),
};

pub(super) static WRONG_STATE: Page = Page {
    status: "400 Bad Request",
    sign: "!",
    english: (
        "This answer belongs to another login",
        "Use the link that the terminal shows now. The login there goes on waiting.",
    ),
    chinese: (
        "此回调属于另一次登录",
        "请使用终端当前显示的链接，该登录仍在等待。",
    ),
};

pub(super) static LATE: Page = Page {
    status: "409 Conflict",
    sign: "!",
    english: (
        "This login has ended",
        "Another answer came first. The terminal says what came of it.",
    ),
    chinese: ("此次登录已结束", "已先收到另一个回调，结果请查看终端。"),
};

const NOTHING_HERE: Page = Page {
    status: "404 Not Found",
    sign: "?",
    english: (
        "Nothing here",
        "This is where a login of feishu-refresh waits for its answer.",
    ),
    chinese: ("此处无内容", "feishu-refresh 正在此等待登录回调。"),
};

pub(super) static NOT_FOUND: Page = NOTHING_HERE;

pub(super) static WRONG_METHOD: Page = Page {
    status: "405 Method Not Allowed\r\nAllow: GET",
    ..NOTHING_HERE
};

pub(super) static NO_REQUEST: Page = Page {
    status: "400 Bad Request",
    ..NOTHING_HERE
};

/// The page for a consent that did not come to a code.
pub(super) fn without_consent(denial: &Denial) -> &'static Page {
    if denial.is_refusal() {
        &REFUSED
    } else {
        &NO_CONSENT
    }
}

/// The whole response that shows a page, and what the server said, if it did. It loads nothing, runs
/// nothing and is stored nowhere.
pub(super) fn response(page: &Page, words: &str) -> String {
    let (title, text) = page.english;
    let (chinese_title, chinese_text) = page.chinese;
    let sign = page.sign;
    let words = if words.is_empty() {
        String::new()
    } else {
        format!("<p class=\"words\"><code>{}</code></p>\n", escaped(words))
    };
    let body = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title} · feishu-refresh</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <p class=\"sign\" aria-hidden=\"true\">{sign}</p>\n\
         <h1>{title}</h1>\n<p>{text}</p>\n\
         <div lang=\"zh\">\n<h1>{chinese_title}</h1>\n<p>{chinese_text}</p>\n</div>\n{words}\
         <footer>feishu-refresh</footer>\n</main>\n</body>\n</html>\n"
    );
    format!(
        "HTTP/1.1 {}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\n\
         Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n\
         Connection: close\r\n\r\n{body}",
        page.status,
        body.len()
    )
}

/// A text as HTML shows it.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "\
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0; min-height: 100vh; display: grid; place-items: center;
  background: light-dark(#f5f6f7, #1a1b1e); color: light-dark(#1f2329, #e8e9eb); }
main { max-width: 24rem; margin: 1rem; padding: 2.5rem 3rem; border-radius: 1rem; text-align: center;
  background: light-dark(#fff, #26282c); box-shadow: 0 .25rem 1.5rem #0002; }
.sign { width: 3.5rem; margin: 0 auto 1rem; border-radius: 50%; font-size: 1.75rem; line-height: 3.5rem;
  background: #3370ff; color: #fff; }
h1 { font-size: 1.25rem; margin: 0 0 .25rem; }
p { margin: 0; }
div { margin-top: 1.5rem; padding-top: 1.5rem; border-top: 1px solid #8884; }
.words { margin-top: 1.5rem; overflow-wrap: anywhere; }
footer { margin-top: 1.5rem; font-size: .8rem; opacity: .6; }
";
