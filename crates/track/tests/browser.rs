//! The HTML report in a real browser: drawn in light and dark, and nothing is fetched.
//!
//! Needs Chromium (`cargo xtask test` installs it). Without it the test fails.

#![allow(clippy::disallowed_methods, reason = "the test starts a browser and gives it a file")]

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use weir_track::change::{self, Settings};
use weir_track::random::Seeded;
use weir_track::report::{Query, Report};
use weir_track::{Finished, Labels, html, simulate};

/// Asks the page what it shows, and writes the answer where `--dump-dom` prints it.
const QUESTIONS: &str = r#"<pre id="seen"></pre><script>
const all = (what) => [...document.querySelectorAll(what)];
const style = (what, name) => getComputedStyle(document.querySelector(what))[name];
const drawn = (what) => all(what).filter((e) => { const b = e.getBoundingClientRect(); return b.width > 0 || b.height > 0; }).length;
const inside = all('svg').every((svg) => { const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('circle, rect, line, text')].every((e) => { const b = e.getBoundingClientRect();
    return b.left >= box.left - 2 && b.right <= box.right + 2 && b.top >= box.top - 2 && b.bottom <= box.bottom + 2; }); });
document.getElementById('seen').textContent = JSON.stringify({
  dark: matchMedia('(prefers-color-scheme: dark)').matches,
  page: style('body', 'backgroundColor'), ink: style('body', 'color'), card: style('section', 'backgroundColor'),
  dot: style('.dot', 'fill'), charts: drawn('svg'), dots: drawn('.dot'), bars: drawn('.bar'), marks: drawn('.mark'),
  rows: all('tbody tr').length, heads: all('h2').map((e) => e.textContent), inside,
  wide: document.documentElement.scrollWidth > innerWidth,
  fetched: performance.getEntriesByType('resource').length,
});
</script>"#;

fn report() -> String {
    let random = Seeded::new(41);
    let (query, mut report) = (Query::default(), Report::default());
    for name in ["nightly build", "<b>odd & \"quoted\"</b>"] {
        let (values, _) = simulate::history(&random, &[(60, 1.0), (60, 1.4)]);
        for (at, ms) in values.iter().enumerate() {
            let row = Finished {
                name: name.to_owned(),
                labels: Labels::from([("branch".to_owned(), "main".to_owned())]),
                end_ns: 1_760_000_000_000_000_000 + at as i64 * 3_600_000_000_000,
                duration_ns: (ms * 1e6) as u64,
                count: 1,
                failures: u64::from(at % 40 == 39),
                ..Finished::default()
            };
            report.add(&query, &row);
        }
    }
    let (values, truth) = simulate::history(&Seeded::new(41), &[(60, 1.0), (60, 1.4)]);
    let changes = change::find(&values, Settings::default());
    assert!(changes.iter().any(|change| change.index.abs_diff(truth[0]) <= 3), "{changes:?}");
    let at = |index: usize| 1_760_000_000_000_000_000 + index as i64 * 3_600_000_000_000;
    let groups: Vec<_> = report
        .groups()
        .map(|group| (group, changes.iter().map(|change| (at(change.index), change.clone())).collect()))
        .collect();
    html::page_with_changes(&groups)
}

/// Shows the page with the reader's wish for light or dark, with every network address unreachable.
fn seen(folder: &Path, page: &Path, dark: bool) -> Value {
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1000,1400"]);
    command.args(["--host-resolver-rules=MAP * ~NOTFOUND", "--no-first-run", "--disable-background-networking"]);
    command.arg(format!("--blink-settings=preferredColorScheme={}", u8::from(!dark)));
    command.arg(format!("--user-data-dir={}", folder.join("profile").display())).arg("--dump-dom");
    let output = command.arg(format!("file://{}", page.display())).stderr(Stdio::null()).output();
    let output = output.expect("this test needs Chromium: `cargo xtask test components` installs it");
    let text = String::from_utf8(output.stdout).unwrap();
    let answer = text.split("<pre id=\"seen\">").nth(1).and_then(|rest| rest.split("</pre>").next());
    let answer = answer.unwrap_or_else(|| panic!("the browser ended with {}: {text}", output.status));
    serde_json::from_str(&answer.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")).unwrap()
}

/// Brightness of `rgb(r, g, b)`, from 0 to 255.
fn brightness(color: &Value) -> f64 {
    let text = color.as_str().unwrap().trim_start_matches("rgb(").trim_end_matches(')');
    let parts: Vec<f64> = text.split(", ").map(|part| part.parse().unwrap()).collect();
    0.299 * parts[0] + 0.587 * parts[1] + 0.114 * parts[2]
}

#[test]
fn the_report_is_drawn_in_light_and_dark_without_a_network() {
    let folder = std::env::temp_dir().join(format!("weir-track-browser-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let report = report();
    assert!(!report.contains("http") && !report.contains("<script") && !report.contains("@import"));
    let page = folder.join("report.html");
    std::fs::write(&page, report.replace("</body>", &(QUESTIONS.to_owned() + "</body>"))).unwrap();
    let [light, dark] = [false, true].map(|dark| seen(&folder, &page, dark));
    std::fs::remove_dir_all(&folder).unwrap();
    for (seen, is_dark) in [(&light, false), (&dark, true)] {
        assert_eq!(seen["dark"], is_dark);
        assert_eq!(
            (&seen["fetched"], &seen["wide"], &seen["inside"]),
            (&0.into(), &false.into(), &true.into()),
            "{seen}"
        );
        assert_eq!((&seen["rows"], &seen["charts"]), (&2.into(), &4.into()), "{seen}");
        // Successful operations are dots; the failed ones have no duration to tell.
        assert!(seen["dots"].as_u64().unwrap() >= 230 && seen["bars"].as_u64().unwrap() >= 20, "{seen}");
        assert!(seen["marks"].as_u64().unwrap() >= 2, "{seen}");
        assert!(seen["heads"].to_string().contains("<b>odd & \\\"quoted\\\"</b>"), "{seen}");
        let contrast = (brightness(&seen["page"]) - brightness(&seen["ink"])).abs();
        assert!(contrast > 150.0, "text on the page: {seen}");
        assert!((brightness(&seen["card"]) - brightness(&seen["dot"])).abs() > 60.0, "dots on their card: {seen}");
    }
    assert!(brightness(&light["page"]) > 200.0 && brightness(&dark["page"]) < 60.0, "{light} {dark}");
}
