// The token of this tab: kept in its session storage at most, sent in a header to this hub alone, never in an address.

import { $, duration } from "./dom.js";

const TOKEN = "federation-status-token";
const LONGEST = 16384; // characters; the hub takes no header that is longer
export const KEPT = "It is kept in this tab until you close it, and sent to this hub only.";

let token = "";
let ends = 0; // seconds since the epoch, where the token says so
let worked = false; // whether the hub has accepted it

function store() {
  try {
    if (token) sessionStorage.setItem(TOKEN, token);
    else sessionStorage.removeItem(TOKEN);
  } catch { /* storage is denied: the token then lives while this page does */ }
}

// When a JWT says that it ends. It is read to be shown, and decides nothing.
function endOf(text) {
  try {
    const part = text.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const { exp } = JSON.parse(atob(part));
    return Number.isFinite(exp) ? exp : 0;
  } catch {
    return 0;
  }
}

export function give(text) {
  token = text.replace(/^Bearer\s+/i, "").slice(0, LONGEST);
  ends = endOf(token);
  worked = false;
  store();
}

export function forget() {
  token = "";
  ends = 0;
  worked = false;
  store();
  tick();
}

// A token holds visible ASCII alone; a header with anything else could not be sent at all.
export const headers = () => (/^[\x21-\x7e]+$/.test(token) ? { Authorization: `Bearer ${token}` } : {});

export function accepted() { worked = true; }

export function whyRefused(status, detail) {
  if (!token) return KEPT;
  if (status === 403) return `That token may not read the status${detail ? `: ${detail}` : ""}.`;
  return worked ? "The token is not accepted any more: it has ended, or was exchanged. Give a new one." : "That token was not accepted.";
}

export function tick() {
  $("forget").hidden = !token || !worked;
  const left = ends - Date.now() / 1000;
  $("token-ends").textContent = ends && worked ? (left > 0 ? `token ends in ${duration(left)}` : "token has ended") : "";
}

try {
  token = sessionStorage.getItem(TOKEN) ?? "";
  ends = endOf(token);
} catch { /* storage is denied */ }
