//! The shape of the code: imports run downwards, and never in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{Attribute, ItemMod, ItemUse, UseTree};

/// The rooms of `src`, from the top down: each imports only from those below it. The front door, `lib.rs`, stands
/// apart.
const ROOMS: [&str; 17] = [
    "internals",
    "cli",
    "fleet",
    "login",
    "refresh",
    "exchange",
    "store",
    "client",
    "fail",
    "profile",
    "protocol",
    "platform",
    "driver",
    "worker",
    "error",
    "text",
    "token",
];

/// A file, by its modules: `store`, `file` is `src/store/file.rs`.
type File = Vec<String>;

/// What each file imports, and the first of its paths that does.
type Imports = BTreeMap<File, BTreeMap<File, String>>;

/// Reads one file.
struct Reader {
    /// The files that its `mod` lines name.
    parts: Vec<String>,
    /// All paths in it, relative to the crate's root.
    paths: Vec<Vec<String>>,
    file: File,
}

impl Reader {
    fn note(&mut self, path: &[String]) {
        let above = |levels: usize| self.file[..self.file.len().saturating_sub(levels)].to_vec();
        let supers = path.iter().take_while(|word| *word == "super").count();
        let (base, rest) = match path[0].as_str() {
            "crate" => (File::new(), &path[1..]),
            "self" => (self.file.clone(), &path[1..]),
            "super" => (above(supers), &path[supers..]),
            // A name from std or another crate leads to no file of ours.
            _ => (self.file.clone(), path),
        };
        self.paths.push([&base, rest].concat());
    }

    fn note_tree(&mut self, prefix: &[String], tree: &UseTree) {
        let longer = |word: &syn::Ident| [prefix, &[word.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.note_tree(&longer(&path.ident), &path.tree),
            UseTree::Name(name) => self.note(&longer(&name.ident)),
            UseTree::Rename(name) => self.note(&longer(&name.ident)),
            UseTree::Glob(_) => self.note(prefix),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.note_tree(prefix, tree);
                }
            }
        }
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let condition = attribute.meta.require_list();
        condition.is_ok_and(|list| list.path.is_ident("cfg") && list.tokens.to_string() == "test")
    })
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if is_for_tests(&module.attrs) {
            return;
        }
        if module.content.is_none() {
            self.parts.push(module.ident.to_string());
        }
        visit::visit_item_mod(self, module);
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !is_for_tests(&item.attrs) {
            self.note_tree(&[], &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            let words = path.segments.iter();
            let words: Vec<String> = words.map(|word| word.ident.to_string()).collect();
            self.note(&words);
        }
        visit::visit_path(self, path);
    }

    // A path in front of `in` opens a door; it is no import.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}

/// Reads a file and all that its `mod` lines name.
fn read(file: &[String], paths: &mut BTreeMap<File, Vec<Vec<String>>>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let place = file.iter().fold(root, |place, part| place.join(part));
    let places = [
        place.with_extension("rs"),
        place.join("mod.rs"),
        place.join("lib.rs"),
    ];
    let place = places.iter().find(|place| place.exists()).unwrap();
    let code = syn::parse_file(&fs::read_to_string(place).unwrap()).unwrap();
    let mut reader = Reader {
        parts: Vec::new(),
        paths: Vec::new(),
        file: file.to_vec(),
    };
    reader.visit_file(&code);
    paths.insert(file.to_vec(), reader.paths);
    for part in reader.parts {
        read(&[file, &[part]].concat(), paths);
    }
}

/// What each file imports from which other file.
fn imports() -> Imports {
    let mut paths = BTreeMap::new();
    read(&[], &mut paths);
    let file_of = |path: &[String]| {
        let mut lengths = (0..=path.len()).rev();
        lengths.find_map(|length| {
            paths
                .get_key_value(&path[..length])
                .map(|(file, _)| file.clone())
        })
    };
    let imported = |(file, used): (&File, &Vec<Vec<String>>)| {
        let from = used
            .iter()
            .filter_map(|path| Some((file_of(path)?, path.join("::"))));
        let from = from.filter(|(from, _)| from != file && !from.is_empty());
        (file.clone(), from.collect())
    };
    paths.iter().map(imported).collect()
}

#[test]
fn no_file_imports_one_that_imports_it() {
    let imports = imports();
    assert!(imports.len() > 100, "{}", imports.len());
    // Takes away what imports nothing that is left: what remains then goes round in circles.
    let mut left: BTreeSet<&File> = imports.keys().collect();
    loop {
        let waits = |file: &&&File| imports[**file].keys().any(|from| left.contains(from));
        let next: BTreeSet<&File> = left.iter().filter(waits).copied().collect();
        if next.len() == left.len() {
            break;
        }
        left = next;
    }
    let within = left.iter().map(|file| {
        let from = imports[*file]
            .iter()
            .filter(|(from, _)| left.contains(from));
        format!(
            "{}: {:?}",
            file.join("/"),
            from.map(|(_, path)| path).collect::<Vec<_>>()
        )
    });
    let within: Vec<String> = within.collect();
    assert!(within.is_empty(), "{within:#?}");
}

#[test]
fn imports_run_downwards() {
    let floor = |file: &File| {
        let room = file.first()?;
        let floor = ROOMS.iter().position(|name| name == room);
        Some(floor.unwrap_or_else(|| panic!("{room} has no place among the rooms")))
    };
    for (file, from) in imports() {
        for (from, path) in from {
            let (above, below) = (floor(&file), floor(&from));
            let file = file.join("/");
            assert!(above <= below, "{file} imports {path}, which is above it");
        }
    }
}
