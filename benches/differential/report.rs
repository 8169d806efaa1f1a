//! What was seen, as tables.

use crate::http1::Then;
use crate::proxies::Proxy;

/// What the consumer heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    Status(u16),
    Closed,
    Nothing,
}

/// What came of one input at one proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    /// Whole requests that reached the provider.
    pub(crate) whole: usize,
    /// The first answer that was not 200, or 200.
    pub(crate) heard: Heard,
}

/// One input and what came of it, proxy by proxy.
pub(crate) struct Played {
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    pub(crate) then: Then,
    pub(crate) outcomes: Vec<Outcome>,
}

impl Outcome {
    fn forwarded(self) -> bool {
        self.whole > 0
    }

    /// Whether it is what `then` asks of a strict proxy.
    fn keeps(self, then: Then) -> bool {
        match then {
            Then::Passes(count) => self.whole == count && self.heard == Heard::Status(200),
            Then::Refused(_) | Then::RefusedAndClosed(_) | Then::Broken => !self.forwarded(),
        }
    }

    fn cell(self, then: Then) -> String {
        let heard = match self.heard {
            Heard::Status(status) => status.to_string(),
            Heard::Closed => "closed".to_owned(),
            Heard::Nothing => "no answer".to_owned(),
        };
        let wanted = if let Then::Passes(count) = then { count } else { 1 };
        match (self.whole, self.heard) {
            (0, _) => heard,
            (whole, Heard::Status(200)) if whole == wanted => "forwarded".to_owned(),
            (whole, Heard::Status(200)) => format!("forwarded ×{whole}"),
            (1, _) => format!("forwarded, {heard}"),
            (whole, _) => format!("forwarded ×{whole}, {heard}"),
        }
    }
}

impl Played {
    fn is_hostile(&self) -> bool {
        !matches!(self.then, Then::Passes(_))
    }

    /// Whether HTTP alone says what is wrong with it. The rest needs to know what a token, an
    /// identity or a registered target is, which only a Spine Secure Proxy does.
    fn is_plain_http(&self) -> bool {
        let number = |letter| self.id.strip_prefix(letter).and_then(|n: &str| n.parse::<u8>().ok());
        self.id.starts_with('A')
            || number('C').is_some_and(|number| number <= 7)
            || matches!(self.id, "E3" | "E6")
    }

    fn cells(&self) -> String {
        let cells = self.outcomes.iter().map(|outcome| outcome.cell(self.then));
        cells.collect::<Vec<_>>().join(" | ")
    }

    /// Whether some proxy forwards what another does not.
    fn differs(&self) -> bool {
        let mut forwarded = self.outcomes.iter().map(|outcome| outcome.forwarded());
        let first = forwarded.next();
        forwarded.any(|one| Some(one) != first)
    }

    fn id(&self) -> &'static str {
        if self.id.is_empty() { "–" } else { self.id }
    }
}

/// Every input.
pub(crate) fn table(proxies: &[Proxy], played: &[Played]) {
    header(proxies);
    for one in played {
        println!("| {} | {} | {} |", one.id(), one.what, one.cells());
    }
}

fn header(proxies: &[Proxy]) {
    let names: Vec<_> = proxies.iter().map(|proxy| proxy.name).collect();
    println!("| id | what | {} |", names.join(" | "));
    println!("|---|---|{}", "---|".repeat(names.len()));
}

/// Inputs that belong together.
type Kind = (&'static str, fn(&Played) -> bool);

/// How many of each kind each proxy forwarded.
pub(crate) fn totals(proxies: &[Proxy], played: &[Played]) {
    let names: Vec<_> = proxies.iter().map(|proxy| proxy.name).collect();
    println!("\n| of these inputs | {} |", names.join(" | "));
    println!("|---|{}", "---|".repeat(names.len()));
    let kinds: [Kind; 4] = [
        ("hostile, plain HTTP (A, C1–C7, E3, E6): forwarded", |one| {
            one.is_hostile() && one.is_plain_http()
        }),
        ("hostile, for a Spine Secure Proxy to judge (C8–C26, D, E1, E2): forwarded", |one| {
            one.is_hostile() && !one.is_plain_http()
        }),
        ("odd and harmless: passed", |one| !one.is_hostile() && !one.id.is_empty()),
        ("what consumers send: passed", |one| one.id.is_empty()),
    ];
    for (kind, belongs) in kinds {
        let rows: Vec<_> = played.iter().filter(|one| belongs(one)).collect();
        let cells = (0..proxies.len()).map(|number| {
            let counts = |one: &&&Played| match one.then {
                Then::Passes(_) => one.outcomes[number].keeps(one.then),
                Then::Refused(_) | Then::RefusedAndClosed(_) | Then::Broken => {
                    one.outcomes[number].forwarded()
                }
            };
            format!("{} of {}", rows.iter().filter(counts).count(), rows.len())
        });
        println!("| {kind} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    println!(
        "\nThe first line is the fair comparison: what may be refused by reading HTTP alone. nginx and HAProxy\n\
         are told to forward any target, so the second says only that somebody has to judge it. Forwarded\n\
         means that a whole request reached the provider, often put right on the way: that is lenient, and\n\
         not by itself a hole. Their configuration is what they come with, plus certificates on both sides\n\
         and room for a target of 32 KiB; both can be told to be stricter."
    );
}

/// The plain HTTP inputs over which the proxies part, those of one number and one outcome together.
pub(crate) fn compact(proxies: &[Proxy], played: &[Played]) {
    println!("\n<!-- differential -->");
    header(proxies);
    let mut lines: Vec<(&str, String, Vec<&str>)> = Vec::new();
    for one in played.iter().filter(|one| one.is_plain_http() && one.is_hostile() && one.differs())
    {
        let cells = one.cells();
        match lines.iter_mut().find(|(id, other, _)| *id == one.id && *other == cells) {
            Some((_, _, whats)) => whats.push(one.what),
            None => lines.push((one.id, cells, vec![one.what])),
        }
    }
    for (id, cells, whats) in lines {
        println!("| {id} | {} | {cells} |", whats.join("; "));
    }
    println!("<!-- /differential -->");
}

/// What our proxy, the first, did that it should not.
pub(crate) fn broken_promises(played: &[Played]) -> usize {
    let broken = |one: &&Played| !one.outcomes[0].keeps(one.then);
    for one in played.iter().filter(broken) {
        let came = one.outcomes[0].cell(one.then);
        println!(
            "BROKEN PROMISE: {} {}: {:?}, and it came to: {came}",
            one.id(),
            one.what,
            one.then
        );
    }
    played.iter().filter(broken).count()
}
