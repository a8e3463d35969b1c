// How the page learns of changes: it asks for the status again and again, and the event stream says when to ask at once.
// The stream says that something changed and never what, so whether it runs changes nothing but how soon.

const PATIENCE = 4000;
const ALONE = 2000; // between two questions without a stream
const BESIDE = 3000; // and with one
const SILENT = 40000; // the stream says something every 15 s; a connection that is dead may not
const AGAIN = 5000;
const MOST_TEXT = 65536;

export class Source {
  // `headers` gives what proves who asks; `ask` asks for the status, `unavailable` is called where the hub says so.
  constructor({ headers, ask }) {
    this.headers = headers;
    this.ask = ask;
    this.stream = null;
    this.at = "";
    this.timer = 0;
  }

  get every() { return this.streams ? BESIDE : ALONE; }

  get streams() { return this.stream !== null && this.stream.open; }

  get(path, tag) {
    const headers = tag ? { ...this.headers(), "If-None-Match": tag } : this.headers();
    return fetch(path, { headers, cache: "no-store", credentials: "omit", redirect: "error", signal: AbortSignal.timeout(PATIENCE) });
  }

  // Ask now, and again after a while.
  async soon() {
    clearTimeout(this.timer);
    try {
      await this.ask();
    } finally {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.soon(), this.every);
    }
  }

  // Listen until `stop`; a stream that ends is opened anew after a while.
  async listen() {
    if (this.stream) return;
    const control = new AbortController();
    const stream = { control, open: false };
    this.stream = stream;
    let alive = setTimeout(() => control.abort(), SILENT);
    try {
      const answer = await fetch("api/v1/events", {
        headers: { ...this.headers(), Accept: "text/event-stream", ...(this.at ? { "Last-Event-ID": this.at } : {}) },
        cache: "no-store", credentials: "omit", redirect: "error", signal: control.signal,
      });
      if (!answer.ok || !answer.headers.get("Content-Type")?.startsWith("text/event-stream")) throw new Error(`status ${answer.status}`);
      stream.open = true;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        clearTimeout(alive);
        alive = setTimeout(() => control.abort(), SILENT);
        const events = (text + value).split(/\r?\n\r?\n/);
        text = events.pop();
        if (text.length > MOST_TEXT) throw new Error("an event has no end");
        if (events.map((event) => this.take(event)).some(Boolean)) this.soon();
      }
    } catch { /* there is no stream, or no more: the page asks by itself meanwhile */ }
    clearTimeout(alive);
    control.abort();
    if (this.stream !== stream) return;
    this.stream = null;
    if (stream.open) this.soon();
    setTimeout(() => { if (!document.hidden && !this.stopped) this.listen(); }, AGAIN);
  }

  // Whether this event says that something is different now.
  take(event) {
    const lines = event.split(/\r?\n/);
    const field = (name) => lines.find((line) => line.startsWith(`${name}:`))?.slice(name.length + 1).trim();
    this.at = field("id") ?? this.at;
    return field("event") === "status" || field("event") === "unavailable";
  }

  start() {
    this.stopped = false;
    this.soon();
    this.listen();
  }

  stop() {
    this.stopped = true;
    this.at = "";
    clearTimeout(this.timer);
    const stream = this.stream;
    this.stream = null;
    stream?.control.abort();
  }
}
