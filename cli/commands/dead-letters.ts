/** `dynamos dead-letters`: what the bus could not deliver, without what was in it; and one of them sent anew. */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { systemClock, type Clock } from "../../lib/clock.ts";
import type { DeadLetter, MessageBus } from "../../lib/bus/message-bus.ts";
import { openMessageBus } from "../../lib/bus/open.ts";
import { AppError } from "../../lib/errors.ts";
import { packageRoot } from "../../lib/package-root.ts";
import type { AnswerRow } from "../client.ts";
import { tableText } from "../demo/table-text.ts";
import { exchangeSettings } from "../exchange/settings.ts";

/** Options of the command. */
export interface DeadLettersOptions {
  /** `list` (the default), `show ID` or `replay ID`. */
  readonly words: readonly string[];
  /** Absent: `DYNAMOS_BUS`, else the embedded bus of the state folder. */
  readonly bus: string | undefined;
  /** Absent: `.dynamos/up` below the working folder. */
  readonly stateFolder: string | undefined;
  /** At most so many are listed, oldest first. */
  readonly limit: number;
  /** JSON instead of a table. */
  readonly json: boolean;
  readonly write: (line: string) => void;
  readonly clock?: Clock;
}

/** Letters looked at to find one by its id: all that a bus keeps. */
const ALL = 10_000;

/** Runs the command; its exit code. */
export async function deadLetters(options: DeadLettersOptions): Promise<number> {
  const [action = "list", id, ...more] = options.words;
  if (!["list", "show", "replay"].includes(action) || (action === "list") !== (id === undefined) || more.length > 0) {
    throw new AppError("invalid_argument", "Write dead-letters list, dead-letters show ID or dead-letters replay ID.");
  }
  const bus = await openMessageBus(await busUrl(options));
  try {
    if (id === undefined) await list(bus, options);
    else if (action === "show") await show(bus, id, options);
    else await replay(bus, id, options);
    return 0;
  } finally {
    await bus.close();
  }
}

/** Dead letters have their own place in an exchange; a file that is not there would be made by opening it. */
async function busUrl({ bus, stateFolder }: DeadLettersOptions): Promise<string> {
  const settings = await exchangeSettings({ bus }, join(packageRoot, "configuration"));
  const url = settings.busUrl ?? `embedded:${resolve(stateFolder ?? join(".dynamos", "up"), "bus.db")}`;
  const [scheme, path = ""] = url.split(/:(.*)/s);
  if (scheme === "embedded" && !existsSync(path)) {
    throw new AppError(
      "not_found",
      `There is no bus at "${path}": name one by --bus URL, DYNAMOS_BUS or --state FOLDER.`,
    );
  }
  return url;
}

async function list(bus: MessageBus, { limit, json, write, clock = systemClock }: DeadLettersOptions): Promise<void> {
  const letters = await bus.deadLetters(limit);
  const now = clock.now();
  const facts = letters.map((letter) => factsOf(letter, now));
  if (json) return write(JSON.stringify(facts, undefined, 2));
  if (facts.length === 0) return write("No dead letters.");
  const rows = facts.map(({ id, age, queue, type, reason, bytes }): AnswerRow => ({
    id,
    age,
    queue,
    type,
    reason,
    bytes,
  }));
  write(tableText(rows, limit));
  if (facts.length === limit) write(`The oldest ${String(limit)}; --limit N shows more.`);
}

async function show(
  bus: MessageBus,
  id: string,
  { json, write, clock = systemClock }: DeadLettersOptions,
): Promise<void> {
  const letter = (await bus.deadLetters(ALL)).find((each) => each.id === id);
  if (letter === undefined)
    throw new AppError("not_found", `There is no dead letter "${id}"; dead-letters list has them.`);
  const facts = factsOf(letter, clock.now());
  if (json) return write(JSON.stringify(facts, undefined, 2));
  for (const [name, value] of Object.entries(facts)) write(`${`${name}:`.padEnd(15)} ${String(value)}`);
}

async function replay(bus: MessageBus, id: string, { write }: DeadLettersOptions): Promise<void> {
  await bus.replayDeadLetter(id);
  write(`Dead letter ${id} was sent to its queue again.`);
}

/** What may be seen of a dead letter: its body may hold a query or rows. */
function factsOf({ id, queue, reason, atMs, message }: DeadLetter, now: number) {
  const { type, messageId, correlationId, replyTo, expiresAtMs, body, headers } = message;
  return {
    id,
    queue,
    type,
    reason,
    ...(atMs === undefined ? { age: "" } : { age: ageText(now - atMs), since: new Date(atMs).toISOString() }),
    bytes: body.byteLength,
    messageId,
    ...(correlationId === undefined ? {} : { correlationId }),
    ...(replyTo === undefined ? {} : { replyTo }),
    ...(expiresAtMs === undefined ? {} : { expires: new Date(expiresAtMs).toISOString() }),
    ...(headers["traceparent"] === undefined ? {} : { traceparent: headers["traceparent"] }),
  };
}

function ageText(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 120) return `${String(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 120) return `${String(minutes)} min`;
  return minutes < 48 * 60 ? `${String(Math.round(minutes / 60))} h` : `${String(Math.round(minutes / 1440))} d`;
}
