/** Names and ids: their forms, and how they are made. */
import { createHash, randomInt } from "node:crypto";
import { Type, type Static } from "@sinclair/typebox";

/** A data steward's or third party's name: letters and digits, beginning with a letter (decision 4). */
export const StewardName = Type.String({ pattern: "^[A-Za-z][A-Za-z0-9]*$", maxLength: 63 });
/** A name of a document: archetype, request type, microservice, data set. */
export const DocumentName = Type.String({ pattern: "^[A-Za-z][A-Za-z0-9._-]*$", maxLength: 63 });
/** A table's or column's name as it stands in the data. */
export const SqlName = Type.String({ pattern: "^[A-Za-z_][A-Za-z0-9_]*$", maxLength: 128 });

/** Whether a string is a steward's name. */
export function isStewardName(name: string): boolean {
  return name.length <= 63 && /^[A-Za-z][A-Za-z0-9]*$/.test(name);
}

/** Who asks. `userName` is the key in agreements, often an e-mail address: personal data, never logged. */
export const User = Type.Object(
  { id: Type.String({ maxLength: 256 }), userName: Type.String({ minLength: 1, maxLength: 256 }) },
  { additionalProperties: false },
);
export type User = Static<typeof User>;

/**
 * A job's name: the local part of the user's name made safe for Kubernetes, `-`, 8 hex digits.
 * Any user name works; one without a safe character becomes `user`.
 */
export function makeJobName(userName: string, randomHex8: string): string {
  const local = (userName.split("@")[0] ?? "")
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^[^a-z]+|-+$/g, "")
    .slice(0, 20)
    .replace(/-+$/, "");
  return `${local === "" ? "user" : local}-${randomHex8}`;
}

/** The part of a job's name that logs may carry: its 8 hex digits (decision 4). */
export function jobNameForLogs(jobName: string): string {
  return jobName.slice(jobName.lastIndexOf("-") + 1);
}

/** Longest name of a job at one party: a run's name adds 23 characters to it, and has 63 at most. */
const MAX_LOCAL_JOB_NAME = 40;

/**
 * The name of a job at one party, unique among parties: at most 40 characters, a DNS label. A long steward name is shortened
 * to its beginning and a hash of the whole.
 */
export function makeLocalJobName(jobName: string, steward: string): string {
  const [label, short] = runLabels(steward);
  const whole = `${jobName}-${label}`;
  return whole.length <= MAX_LOCAL_JOB_NAME ? whole : `${jobName.slice(0, 29)}-${short}`;
}

/**
 * What a party is called in the names of its jobs and runs: its name in lower case, and what stands for it where that is too
 * long. Parties that share one could not be told apart there, nor kept apart by a broker.
 */
export function runLabels(steward: string): readonly [whole: string, short: string] {
  const label = steward.toLowerCase();
  return [label, `${label.slice(0, 4)}${hexHash(label, 6)}`];
}

/**
 * The run of one attempt at a data request (decision 1): names the job, the run queue and the logs. At most 63 characters.
 *
 * @param requestId chosen by the client, so only its hash tells requests apart.
 * @param attempt below 1000.
 * @param nonce new for each execution, see {@link makeRunNonce}: what an earlier one left behind under the same request and
 * attempt (a queue with messages, a job on record) must not be taken for this run's.
 */
export function makeRunName(localJobName: string, requestId: string, attempt: number, nonce: string): string {
  return `${localJobName.slice(0, MAX_LOCAL_JOB_NAME)}-${hexHash(requestId, 12)}-${String(attempt)}-${nonce}`;
}

/**
 * A regular expression (without anchors) for the names that {@link makeRunName} makes for the jobs of these stewards; absent:
 * of any. A name is read from its end, where nothing but the label has a variable length: no run matches another party's.
 */
export function runNamePattern(stewards?: readonly string[]): string {
  const labels = stewards?.flatMap(runLabels).join("|") ?? "[a-z][a-z0-9]{0,62}";
  return `[a-z][a-z0-9-]{0,19}-[0-9a-f]{8}-(${labels})-[0-9a-f]{12}-[0-9]{1,3}-[0-9a-z]{5}`;
}

/** 5 random characters, as a DNS label has them. */
export function makeRunNonce(): string {
  return randomInt(36 ** 5)
    .toString(36)
    .padStart(5, "0");
}

/** Whether a run is one of this party's: its name is as {@link makeRunName} makes them for its jobs. */
export function isRunOf(runName: string, steward: string): boolean {
  return new RegExp(`^${runNamePattern([steward])}$`).test(runName);
}

/** Hexadecimal digits of a shape's hash that names have: 64 bits, which no two shapes of a party share by chance. */
const SHAPE_DIGITS = 16;
const SHAPE_KEY = "[0-9a-f]{8}-[0-9a-f]{8}";

/**
 * What stands for a shape in names: two groups of 8 hex digits, so that a name made of it reads as a job's does ({@link makeJobName}).
 *
 * @param text tells the shape apart from all others.
 */
export function makeShapeKey(text: string): string {
  const digits = hexHash(text, SHAPE_DIGITS);
  return `${digits.slice(0, SHAPE_DIGITS / 2)}-${digits.slice(SHAPE_DIGITS / 2)}`;
}

/**
 * The job of a persistent chain, and the queue that its runs share: unique by shape, slot and generation, which replicas of an
 * agent count alike, so that they do not start one chain twice. At most 63 characters.
 *
 * @param shapeKey see {@link makeShapeKey}.
 * @param slot from 0, below 1000.
 * @param generation from 0, below 1,000,000: the chains that came one after another in this slot.
 */
export function makeChainName(steward: string, shapeKey: string, slot: number, generation: number): string {
  return `${chainPrefix(steward, shapeKey)}-${String(slot)}-${String(generation)}`;
}

/** A shape's part of {@link makeChainName}. */
export function chainPrefix(steward: string, shapeKey: string): string {
  const [whole, short] = runLabels(steward);
  return `${whole.length <= MAX_CHAIN_LABEL ? whole : short}-chain-${shapeKey}`;
}

/** Slot and generation of a chain that {@link makeChainName} named; undefined for other names. */
export function readChainName(name: string): { readonly slot: number; readonly generation: number } | undefined {
  const [, slot, generation] = READABLE_CHAIN_NAME.exec(name) ?? [];
  return slot === undefined ? undefined : { slot: Number(slot), generation: Number(generation) };
}

/** A regular expression (without anchors) for the names that {@link makeChainName} makes for these stewards; absent: for any. */
export function chainNamePattern(stewards?: readonly string[]): string {
  return `${chainLabelPattern(stewards)}-chain-${SHAPE_KEY}-[0-9]{1,3}-[0-9]{1,6}`;
}

/** A regular expression (without anchors) for the work queues of these stewards' persistent chains; absent: of any. */
export function workQueuePattern(stewards?: readonly string[]): string {
  return `${chainLabelPattern(stewards)}-chain-${SHAPE_KEY}`;
}

/** A chain's name adds at most 35 characters to it. */
const MAX_CHAIN_LABEL = 28;
const READABLE_CHAIN_NAME = new RegExp(`-chain-${SHAPE_KEY}-([0-9]{1,3})-([0-9]{1,6})$`);

function chainLabelPattern(stewards: readonly string[] | undefined): string {
  return `(${stewards?.flatMap(runLabels).join("|") ?? "[a-z][a-z0-9]{0,62}"})`;
}

function hexHash(text: string, digits: number): string {
  return createHash("sha256").update(text).digest("hex").slice(0, digits);
}
