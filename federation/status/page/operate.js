// Asks for an operation: says what it does, has its subject typed, sends it once, and shows what became of it.
// The form is beside what is drawn anew with every poll, so that nothing typed is lost.

import { $ } from "./dom.js";

const PATIENCE = 45000;
let wanted = null;

export function prepare(operation) {
  wanted = operation;
  $("operate-text").textContent = operation.text;
  $("operate-word").textContent = operation.confirm;
  $("operate-reason-row").hidden = !operation.reason;
  $("operate-reason").required = operation.reason === "needed";
  $("operate-reason").value = "";
  $("operate-confirm").value = "";
  $("operate-go").textContent = operation.verb;
  $("operate-outcome").textContent = "";
  $("operate").hidden = false;
  check();
  $(operation.reason ? "operate-reason" : "operate-confirm").focus();
}

export function close() {
  wanted = null;
  $("operate").hidden = true;
}

function check() {
  const typed = wanted !== null && $("operate-confirm").value.trim() === wanted.confirm;
  const reasoned = wanted?.reason !== "needed" || $("operate-reason").value.trim() !== "";
  $("operate-go").disabled = !typed || !reasoned;
}

async function send(headers) {
  const operation = wanted;
  const reason = $("operate-reason").value.trim();
  const outcome = $("operate-outcome");
  $("operate-go").disabled = true;
  outcome.textContent = "asked; the leading controller decides …";
  try {
    const answer = await fetch("api/v1/operations", {
      method: "POST", headers: { ...headers, "Content-Type": "application/json" }, cache: "no-store", credentials: "omit", redirect: "error",
      body: JSON.stringify({ verb: operation.verb, arguments: { ...operation.arguments, ...(reason ? { reason } : {}) } }),
      signal: AbortSignal.timeout(PATIENCE),
    });
    const body = await answer.json();
    if (answer.ok) outcome.textContent = `${operation.verb}: done`;
    else outcome.textContent = `${operation.verb}: ${answer.status === 409 ? "refused: " : ""}${body.detail || body.title || answer.status}${body.remedy ? ` (${body.remedy})` : ""}`;
  } catch {
    outcome.textContent = "no answer: whether it was done, the list of operations shows";
  }
  wanted = null;
}

export function listen(headers, after) {
  $("operate-confirm").addEventListener("input", check);
  $("operate-reason").addEventListener("input", check);
  $("operate-close").addEventListener("click", close);
  $("operate").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!wanted || $("operate-go").disabled) return;
    await send(headers());
    after();
  });
}
