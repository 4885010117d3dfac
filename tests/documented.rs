//! The command lines that README, docs and examples show: each can be read by the program, and those of
//! README that need no more than a file and a server do what they are shown to do.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{PROGRAM, Run, Scene, exit_code};
use crate::recipes::{blocks_in, install, path};
use crate::sandbox::{APP_ID, APP_SECRET};

/// What shows commands, and how many it shows at least: so that none is passed over in silence.
const TEXTS: [(&str, usize); 9] = [
    ("README.md", 10),
    ("README.zh-CN.md", 10),
    ("docs/recipes.md", 25),
    ("docs/reference.md", 6),
    ("docs/postgres.md", 10),
    ("docs/promises.md", 5),
    ("packaging/feishu-refresh.service", 1),
    ("feishu-config.ini.example", 0),
    ("SECURITY.md", 1),
];

/// A run of the program that a text shows.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shown {
    line: usize,
    arguments: Vec<String>,
    /// Whether it stands within a sentence, which may name a command and no more.
    is_mention: bool,
}

/// All runs that a text shows: in its blocks, in its sentences, and after `ExecStart=`.
fn shown_in(text: &str) -> Vec<Shown> {
    let mut sentences = String::new();
    let mut commands = String::new();
    let mut kind = None;
    for line in text.lines() {
        let mut of_block = String::new();
        let mut of_sentence = "";
        match (line.trim_start().strip_prefix("```"), &kind) {
            (Some(_), Some(_)) => kind = None,
            (Some(named), None) => kind = Some(named.to_owned()),
            (None, Some(kind)) => of_block = commands_of(kind, line),
            (None, None) => {
                of_sentence = line;
                of_block = commands_of("ini", line);
            }
        }
        // Line by line, so that they are counted alike.
        sentences.push_str(of_sentence);
        sentences.push('\n');
        commands.push_str(&of_block);
        commands.push('\n');
    }
    let mut shown = runs_in(&commands, 1, false);
    let mut line = 1;
    for (number, part) in sentences.split('`').enumerate() {
        // What is between two of them is code.
        if number % 2 == 1 {
            let command = part.strip_prefix("ExecStart=").unwrap_or(part);
            shown.extend(runs_in(&command.replace('\n', " "), line, true));
        }
        line += part.matches('\n').count();
    }
    shown.sort();
    shown
}

/// What a shell is given by a line in a block of this kind.
fn commands_of(kind: &str, line: &str) -> String {
    let entry = line.trim_start();
    let item = entry.strip_prefix("- ");
    let value = |key| item.unwrap_or(entry).strip_prefix(key).map(str::trim);
    let command = match kind {
        "sh" => Some(line),
        "console" => line.strip_prefix("$ ").or(line.strip_prefix("# ")),
        // After minute, hour, day, month and weekday.
        "cron" if !line.starts_with('#') => line.splitn(6, ' ').nth(5),
        "ini" => line.strip_prefix("ExecStart="),
        "yaml" => {
            let script = item.filter(|item| item.starts_with("feishu-refresh "));
            value("run:").or(value("command:")).or(script)
        }
        "groovy" => entry
            .strip_prefix("sh '")
            .map(|rest| rest.trim_end_matches('\'')),
        "python" | "js" | "go" => return of_call(line),
        _ => None,
    };
    let command = command.unwrap_or_default();
    let list = command.rfind(']').map(|end| &command[..=end]);
    let list = list.and_then(|list| serde_json::from_str::<Vec<String>>(list).ok());
    let quoted = |word: &String| format!("'{}'", word.replace('\'', "'\\''"));
    let of_list = list.map(|words| words.iter().map(quoted).collect::<Vec<_>>().join(" "));
    of_list.unwrap_or_else(|| command.to_owned())
}

/// What another program starts: all that is in quotes from the program's name on, up to the list's end.
fn of_call(line: &str) -> String {
    let quotes = ['"', '\''];
    let named = quotes.map(|quote| format!("{quote}feishu-refresh{quote}"));
    let Some(start) = named.iter().find_map(|name| line.find(name.as_str())) else {
        return String::new();
    };
    let list = line[start..].split([']', ')']).next().unwrap_or_default();
    let words: Vec<_> = list.split(quotes).skip(1).step_by(2).collect();
    words.join(" ")
}

/// The runs of the program in what a shell is given, of which the first line has this number.
fn runs_in(commands: &str, first: usize, is_mention: bool) -> Vec<Shown> {
    let mut shell = Shell {
        line: first,
        ..Shell::default()
    };
    shell.read(&mut commands.chars().peekable());
    let runs = shell.commands.into_iter().flat_map(|(line, words)| {
        let program = words.iter().position(|word| word == "feishu-refresh");
        let as_path = words.iter().position(|word| !word.contains('='));
        let as_path = as_path.filter(|first| words[*first].ends_with("/feishu-refresh"));
        if let Some(program) = program.or(as_path) {
            // What may be left out is.
            let is_needed = |word: &&String| !(word.starts_with('[') && word.ends_with(']'));
            let arguments = words[program + 1..].iter().filter(is_needed);
            return vec![Shown {
                line,
                arguments: arguments.map(|word| filled(word)).collect(),
                is_mention,
            }];
        }
        // What another shell is given.
        let inner = words.iter().position(|word| word == "-c");
        match inner.filter(|c| *c > 0 && words[c - 1].ends_with("sh")) {
            Some(c) if c + 1 < words.len() => runs_in(&words[c + 1], line, is_mention),
            _ => Vec::new(),
        }
    });
    runs.collect()
}

/// A word with something that can be read in a placeholder's place, as `--help` names them. Any other
/// is a name, which may be anything.
fn filled(word: &str) -> String {
    let word = match word {
        "DURATION" => "1h",
        "N" => "1",
        "SHELL" => "bash",
        "API" => "v1",
        "URL" => "http://127.0.0.1:1",
        other => other,
    };
    word.replace('…', "x")
}

type Characters<'t> = std::iter::Peekable<std::str::Chars<'t>>;

/// Reads what a shell is given as far as words go: quotes, comments, redirections and what is between
/// commands. A variable's value is `x`.
#[derive(Default)]
struct Shell {
    line: usize,
    commands: Vec<(usize, Vec<String>)>,
    words: Vec<String>,
    word: Option<String>,
    /// Whether the next word is a file that something is redirected to.
    is_redirected: bool,
}

impl Shell {
    fn read(&mut self, text: &mut Characters<'_>) {
        while let Some(next) = text.next() {
            match next {
                '\\' => match text.next() {
                    Some('\n') | None => self.line += 1,
                    Some(other) => self.push(other),
                },
                '\'' => {
                    self.word.get_or_insert_default();
                    for quoted in text.by_ref().take_while(|c| *c != '\'') {
                        self.push(quoted);
                    }
                }
                '"' => self.read_quoted(text),
                '$' => self.expand(text),
                '#' if self.word.is_none() => while text.next_if(|c| *c != '\n').is_some() {},
                ' ' | '\t' => self.end_word(),
                '>' | '<' => {
                    // A number before it is a file's.
                    self.word.take_if(|word| word.parse::<u8>().is_ok());
                    self.end_word();
                    while text.next_if(|c| ['>', '&'].contains(c)).is_some() {}
                    self.is_redirected = true;
                }
                '\n' | ';' | '|' | '&' | '(' | ')' => {
                    self.end_command();
                    self.line += usize::from(next == '\n');
                }
                other => self.push(other),
            }
        }
        self.end_command();
    }

    fn read_quoted(&mut self, text: &mut Characters<'_>) {
        self.word.get_or_insert_default();
        while let Some(next) = text.next() {
            match next {
                '"' => return,
                '\\' => text.next().into_iter().for_each(|c| self.push(c)),
                '$' => self.expand(text),
                other => self.push(other),
            }
        }
    }

    /// A variable, or what a command prints.
    fn expand(&mut self, text: &mut Characters<'_>) {
        self.push('x');
        if text.next_if_eq(&'(').is_some() {
            let mut depth = 1;
            let is_inside = |c: &char| {
                depth += i32::from(*c == '(') - i32::from(*c == ')');
                depth > 0
            };
            let inner: String = text.take_while(is_inside).collect();
            let mut shell = Shell {
                line: self.line,
                ..Shell::default()
            };
            shell.read(&mut inner.chars().peekable());
            self.commands.append(&mut shell.commands);
        } else if text.next_if_eq(&'{').is_some() {
            text.take_while(|c| *c != '}').for_each(drop);
        } else if text.next_if(char::is_ascii_punctuation).is_none() {
            let is_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
            while text.next_if(is_name).is_some() {}
        }
    }

    fn push(&mut self, c: char) {
        self.line += usize::from(c == '\n');
        self.word.get_or_insert_default().push(c);
    }

    fn end_word(&mut self) {
        if let Some(word) = self.word.take()
            && !std::mem::take(&mut self.is_redirected)
        {
            self.words.push(word);
        }
    }

    fn end_command(&mut self) {
        self.end_word();
        self.is_redirected = false;
        let words = std::mem::take(&mut self.words);
        self.commands.push((self.line, words));
    }
}

#[test]
fn runs_are_found_in_all_kinds_of_text() {
    let text = "Say `feishu-refresh store [WHAT]`, or `feishu-refresh exec\n-- /bin/bot`, not `refresh`.\n\
        ```console\n$ (umask 077; feishu-refresh store key > a.key); export A=$PWD/feishu-refresh\nfeishu-refresh said this\n\
        # A=1 /usr/bin/feishu-refresh -p \"$A b\" 2>&1 | feishu-refresh login   # --not this\n```\n\
        ```sh\ntoken=$(feishu-refresh --min-ttl 10m) || exit\nfeishu-refresh \\\n  -p 'a b' && rm -r ~/feishu-refresh\n```\n\
        ```cron\n0 3 * * *  cd /srv && /bin/feishu-refresh > /dev/null\n```\n\
        ```yaml\n- run: feishu-refresh -r …\n  command: [\"sh\", \"-c\", \"exec feishu-refresh -q > f\"]   # a list\n```\n\
        ExecStart=/usr/bin/feishu-refresh --all --keep-alive DURATION ${A}/b\n\
        ```yaml\n  - name: feishu-refresh\n    - feishu-refresh exec -- ./a\n```\n\
        ```groovy\n  sh 'feishu-refresh status'\n```\n\
        ```js\n  run('feishu-refresh', ['-p', 'b'], { stdio: 'pipe' })\n```\n";
    let found = shown_in(text);
    let found: Vec<_> = found
        .iter()
        .map(|shown| (shown.line, shown.arguments.join("|"), shown.is_mention))
        .collect();
    let expected = [
        (1, "store", true),
        (1, "exec|--|/bin/bot", true),
        (4, "store|key", false),
        (6, "-p|x b", false),
        (6, "login", false),
        (9, "--min-ttl|10m", false),
        (11, "-p|a b", false),
        (14, "", false),
        (17, "-r|x", false),
        (18, "-q", false),
        (20, "--all|--keep-alive|1h|x/b", false),
        (23, "exec|--|./a", false),
        (26, "status", false),
        (29, "-p|b", false),
    ];
    let mut expected = expected.map(|(line, words, mention)| (line, words.to_owned(), mention));
    expected.sort();
    let mut found = found;
    found.sort();
    assert_eq!(found, expected);
}

/// What is still at work then was understood.
const LIMIT: Duration = Duration::from_secs(20);

/// How the program ends that is given this, where it finds no file and no network.
fn code_of(arguments: &[String]) -> i32 {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Command::new(PROGRAM);
    program.args(arguments).current_dir(folder.path());
    program.env_clear().stdin(Stdio::null());
    for variable in ["FEISHU_BASE_URL", "FEISHU_ACCOUNTS_URL"] {
        // Nobody listens there.
        program.env(variable, "http://127.0.0.1:1");
    }
    program.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = program.spawn().unwrap();
    let id = Pid::from_raw(child.id().try_into().unwrap());
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait().unwrap()));
    let status = ended.recv_timeout(LIMIT).unwrap_or_else(|_| {
        kill(id, Signal::SIGKILL).unwrap();
        ended.recv().unwrap()
    });
    exit_code(status)
}

#[test]
fn every_command_line_in_the_texts_can_be_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut places = BTreeMap::<_, Vec<String>>::new();
    for (name, at_least) in TEXTS {
        let shown = shown_in(&fs::read_to_string(root.join(name)).unwrap());
        assert!(shown.len() >= at_least, "{name} shows {shown:#?}");
        for shown in shown {
            let place = format!("{name}:{}", shown.line);
            let run = (shown.arguments, shown.is_mention);
            places.entry(run).or_default().push(place);
        }
    }
    let wrong = |(arguments, is_mention): &(Vec<String>, bool)| {
        // A sentence may name a command alone.
        let mut help = arguments.clone();
        help.push("--help".to_owned());
        let is_name = || !arguments.iter().any(|word| word.starts_with('-')) && code_of(&help) == 0;
        code_of(arguments) == 2 && !(*is_mention && is_name())
    };
    // Side by side, as one that finds no server tries again.
    let wrong: Vec<_> = thread::scope(|scope| {
        let tries: Vec<_> = places
            .iter()
            .map(|(run, places)| (run, places, scope.spawn(move || wrong(run))))
            .collect();
        let wrong = tries.into_iter().filter_map(|(run, places, tried)| {
            let shown = format!("feishu-refresh {}: {}", run.0.join(" "), places.join(", "));
            tried.join().unwrap().then_some(shown)
        });
        wrong.collect()
    });
    assert!(wrong.is_empty(), "not understood:\n{}", wrong.join("\n"));
}

/// A browser that opens a page, and agrees.
const BROWSER: &str = "#!/bin/sh\n\
    link=$(/usr/bin/curl -s \"$1\" | sed -n 's/.*id=agree href=\"\\([^\"]*\\)\".*/\\1/p' | sed 's/&amp;/\\&/g')\n\
    /usr/bin/curl -s \"$link\" > \"$HOME/last-page\"\n";

/// A file as README has it made, with the stand-in's app and addresses.
fn first_file(scene: &Scene, text: &str) -> String {
    let ini = blocks_in(text, "ini").remove(0);
    let filled = ini
        .replace("app_id = cli_…", &format!("app_id = {APP_ID}"))
        .replace("app_secret = …", &format!("app_secret = {APP_SECRET}"));
    assert!(!filled.contains('…'), "{filled}");
    let base = scene.server.base_url();
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = port.local_addr().unwrap().port();
    format!(
        "{filled}base_url = {base}\naccounts_url = {base}\n\
         [LOGIN_CODE]\nredirect_uri = http://localhost:{port}/callback\n"
    )
}

/// The lines of a block that are typed; none of one that needs more than the program and its file.
fn typed(block: &str) -> Option<String> {
    let lines = block.lines();
    let lines: Vec<_> = lines
        .map(|line| line.strip_prefix("$ ").unwrap_or(line))
        .collect();
    let needs_more = |line: &&str| {
        let others = ["cargo", "FEISHU_STORE", "store", "completions"];
        others.iter().any(|word| line.contains(word))
    };
    (!lines.iter().any(needs_more)).then(|| lines.join("\n"))
}

#[test]
fn the_lines_of_readme_work_in_their_order() {
    for (name, at_least) in [("README.md", 2), ("README.zh-CN.md", 3)] {
        let text = format!("{}/{name}", env!("CARGO_MANIFEST_DIR"));
        let scene = Scene::without_file();
        let path = path(&scene);
        install(&scene.folder().join("bin"), "xdg-open", BROWSER);
        install(
            scene.folder(),
            "my-bot",
            "#!/bin/sh\ntest -n \"$FEISHU_USER_ACCESS_TOKEN\"\n",
        );
        let mut done = 0;
        let consoles = blocks_in(&text, "console");
        for (number, block) in consoles.iter().chain(&blocks_in(&text, "sh")).enumerate() {
            let Some(script) = typed(block) else {
                continue;
            };
            done += 1;
            if number < consoles.len() {
                // Each of these is a way to a first token.
                scene.write(first_file(&scene, &text));
            }
            let mut shell = Command::new("sh");
            shell.current_dir(scene.folder()).env_clear();
            shell.env("PATH", &path).env("HOME", scene.folder());
            // The screen that a browser needs, and the tokens that another program has given.
            shell.env("DISPLAY", ":0");
            shell.env("FEISHU_BASE_URL", scene.server.base_url());
            shell.env("APP_ACCESS_TOKEN", scene.server.app_token());
            shell.env("REFRESH_TOKEN", scene.server.refresh_token());
            let run = Run::of(shell.args(["-euc", &script]).output().unwrap());
            assert_eq!(run.code, 0, "{name}: {script}: {}", run.stderr);
        }
        assert!(done >= at_least, "{name}: {done} blocks");
        let page = fs::read_to_string(scene.folder().join("last-page")).unwrap();
        assert!(page.contains("Logged in"), "{page}");
        assert!(scene.server.is_live(&scene.value("refresh_token")));
        assert_eq!(scene.server.spent_seen(), 0);
    }
}
