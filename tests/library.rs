//! The functions for Rust callers, and the sandbox example.

use std::task::{Context, Poll, Waker};

use feishu_refresh::{ExposeSecret, Kind, Options, SecretString};

use crate::harness::Scene;
use crate::sandbox::Fault;

#[test]
fn the_blocking_form_returns_the_saved_token() {
    let scene = Scene::new();
    let token =
        feishu_refresh::blocking::refresh_user_access_token(None, None, Some(&scene.file()))
            .unwrap();
    assert_eq!(token, scene.value("user_access_token"));
    scene.assert_sound();
}

#[test]
fn the_async_form_needs_no_runtime_of_ours() {
    let scene = Scene::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let file = scene.file();
    let token = runtime
        .block_on(feishu_refresh::refresh_user_access_token(
            None,
            None,
            Some(&file),
        ))
        .unwrap();
    assert_eq!(token, scene.value("user_access_token"));
    // The blocking form works within a runtime, too.
    let token = runtime
        .block_on(async {
            feishu_refresh::blocking::refresh_user_access_token(None, None, Some(&file))
        })
        .unwrap();
    assert_eq!(token, scene.value("user_access_token"));
    scene.assert_sound();
}

#[test]
fn a_dropped_future_loses_nothing() {
    let scene = Scene::new();
    let before = scene.text();
    scene.server.fail_next(Fault::Hold);
    let mut options = Options::default();
    options.config_file = scene.file();
    {
        let mut future = Box::pin(feishu_refresh::refresh(options.clone()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(matches!(future.as_mut().poll(&mut context), Poll::Pending));
    }
    scene.server.release();
    // The dropped run still holds the lock until it has saved, so that this one shares or follows.
    scene.server.fail_next(Fault::code(20007));
    options.retries = 0;
    let _ = feishu_refresh::blocking::refresh(&options);
    scene.assert_sound();
    assert_eq!(scene.server.rotations(), 1);
    assert_ne!(scene.text(), before);
}

#[test]
fn settings_and_errors_can_be_branched_on() {
    let scene = Scene::new();
    let mut options = Options::default();
    options.config_file = scene.file();
    options.base_url = Some(scene.server.base_url());
    options.refresh_token = Some(SecretString::from(scene.server.refresh_token()));
    let outcome = feishu_refresh::blocking::refresh(&options).unwrap();
    assert!(outcome.refreshed);
    assert_eq!(
        outcome.access_token.expose_secret(),
        scene.value("user_access_token")
    );
    assert!(!format!("{outcome:?} {options:?}").contains("sandbox0"));

    scene.server.fail_next(Fault::code(20026));
    let error = feishu_refresh::blocking::refresh(&options).unwrap_err();
    assert_eq!(error.kind(), Kind::Reauthorize);
    assert_eq!(error.server().unwrap().code, Some(20026));
    assert!(error.hint().is_some());
    options.config_file = scene.folder().join("none.ini");
    options.refresh_token = None;
    let error = feishu_refresh::blocking::refresh(&options).unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
}
