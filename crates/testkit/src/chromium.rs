//! A headless Chromium, driven through its debugging protocol over two pipes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use super::repository::root;

/// Makes standard input and output the pipes of the protocol, which are descriptors 3 and 4.
const PIPES: &str = r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null"#;

/// A running browser with one tab, closed when this is dropped.
pub struct Chromium {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// Session with the tab.
    session: Value,
    /// Number of the last command.
    commands: u64,
    /// Events since the last page was opened.
    events: Vec<Value>,
}

/// Returns the path of axe-core's script, which `.ci/run` downloads.
pub fn axe() -> PathBuf {
    root().join("target/axe-core/axe.min.js")
}

impl Chromium {
    /// Starts a browser whose files are in a folder; returns `None` if it is not installed.
    pub fn start(folder: &Path) -> Option<Self> {
        let version = Command::new("chromium").arg("--version").output();
        if !version.is_ok_and(|output| output.status.success()) {
            return None;
        }
        let mut child = Command::new("/bin/sh")
            .args(["-c", PIPES, "sh", "chromium", "--headless", "--no-sandbox", "--disable-gpu"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
            .args(["--disable-component-update", "--remote-debugging-pipe", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", folder.join("chromium").display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (session, events) = (Value::Null, Vec::new());
        let mut browser =
            Self { child, to, from: BufReader::new(from), session, commands: 0, events };
        let tab = browser.call("Target.createTarget", &json!({"url": "about:blank"}));
        let attach = json!({"targetId": tab["targetId"], "flatten": true});
        browser.session = browser.call("Target.attachToTarget", &attach)["sessionId"].take();
        browser.call("Page.enable", &json!({}));
        Some(browser)
    }

    /// Sends a command and returns its result.
    pub fn call(&mut self, method: &str, params: &Value) -> Value {
        self.commands += 1;
        let mut command = json!({"id": self.commands, "method": method, "params": params});
        if !self.session.is_null() {
            command["sessionId"] = self.session.clone();
        }
        self.to.write_all(format!("{command}\0").as_bytes()).unwrap();
        loop {
            let mut message = self.read();
            if message["id"] == self.commands {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].take();
            }
            self.events.push(message);
        }
    }

    fn read(&mut self) -> Value {
        let mut message = Vec::new();
        self.from.read_until(0, &mut message).unwrap();
        assert_eq!(message.pop(), Some(0), "chromium has ended");
        serde_json::from_slice(&message).unwrap()
    }

    /// Opens a page and waits until it is loaded.
    pub fn open(&mut self, url: &str) {
        self.events.clear();
        let opened = self.call("Page.navigate", &json!({"url": url}));
        assert!(opened["errorText"].is_null(), "{url}: {opened}");
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.read();
            self.events.push(event);
        }
    }

    /// Waits until the next page is loaded, after a click that leads there.
    pub fn click_through(&mut self, selector: &str) {
        self.events.clear();
        self.evaluate(&format!("document.querySelector({}).click()", json!(selector)));
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.read();
            self.events.push(event);
        }
    }

    /// Sets the size of the tab in CSS pixels.
    pub fn resize(&mut self, width: u32, height: u32) {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// Sets whether the scripts of pages run.
    pub fn run_scripts(&mut self, run: bool) {
        self.call("Emulation.setScriptExecutionDisabled", &json!({"value": !run}));
    }

    /// Evaluates an expression in the page and returns its value, or that of its promise.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut result = self.call("Runtime.evaluate", &params);
        assert!(result["exceptionDetails"].is_null(), "{result}");
        result["result"]["value"].take()
    }

    /// Returns the violations that axe-core finds in the page, by the rules of WCAG 2.2 up to level AA.
    pub fn violations(&mut self) -> Vec<String> {
        let axe = std::fs::read_to_string(axe()).unwrap();
        self.evaluate(&format!("{axe};0"));
        let found = self.evaluate(
            "axe.run(document, {runOnly: {type: 'tag', values: ['wcag2a', 'wcag2aa', 'wcag21a', \
             'wcag21aa', 'wcag22aa', 'best-practice']}}).then(result => result.violations.flatMap(rule => \
             rule.nodes.map(node => `${rule.id}: ${node.html}: ${node.failureSummary}`)))",
        );
        serde_json::from_value(found).unwrap()
    }

    /// Returns a picture of the tab in PNG.
    pub fn screenshot(&mut self) -> Vec<u8> {
        let taken = self.call("Page.captureScreenshot", &json!({"format": "png"}));
        base64_simd::STANDARD.decode_to_vec(taken["data"].as_str().unwrap()).unwrap()
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}
