/** What an answer holds, by the oracle: of the front door, and of an agent in each of its formats. */
import { tableFromIPC } from "apache-arrow";
import type { Answer, AnswerRow, GatheredAnswer } from "../../cli/client.ts";
import type { Outcome } from "./history.ts";
import { rowFaultText, type JoinedRow, type Oracle, type RowCheck } from "./oracle.ts";
import type { Format, PlannedRequest } from "./plan.ts";
import { STEWARDS, THIRD_PARTY, type Steward } from "./questions.ts";

type Answered = Extract<Outcome, { kind: "answered" }>;

/** An answer, looked at. */
export interface LookedAt {
  readonly outcome: Answered;
  /** Failures of parties inside it: a caller may ask again for their sake. */
  readonly failures: readonly { readonly code: string; readonly retryable: boolean }[];
  /** The same for the same answer, of an algorithm at least. */
  readonly digest: string;
}

/** Looks at an answer of the front door. */
export function lookAtGathered(request: PlannedRequest, answer: GatheredAnswer, oracle: Oracle): LookedAt {
  const looked = answer.responses.map((response) => lookAtResponse(request, response, oracle));
  const faults = looked.flatMap(({ fault }) => fault ?? []);
  const archetype = request.throughThirdParty ? "dataThroughTtp" : "computeToData";
  if (answer.archetype !== archetype) faults.push(`archetype ${answer.archetype} instead of ${archetype}`);
  const failures = looked.flatMap(({ failure }) => failure ?? []);
  const isPooled = request.question.algorithm !== undefined && failures.length === 0;
  if (isPooled) faults.push(...pooledFaults(request, answer, oracle));
  const without = [
    ...failures,
    ...answer.offline.map((provider) => ({ provider, code: "offline" })),
    ...answer.refused.map(({ provider, code }) => ({ provider, code })),
  ];
  return {
    outcome: {
      kind: "answered",
      providers: looked.flatMap(({ providers }) => providers),
      without: without.map(({ provider, code }) => ({ provider, code })),
      fault: faults.length === 0 ? undefined : faults.join("; "),
    },
    failures,
    digest: digestOf(answer.pooled?.rows),
  };
}

/** Looks at an agent's own answer as JSON. */
export function lookAtAnswer(request: PlannedRequest, answer: Answer, oracle: Oracle): LookedAt {
  const { providers, fault, failure } = lookAtResponse(request, answer, oracle);
  const failures = failure === undefined ? [] : [failure];
  const without = failures.map(({ provider, code }) => ({ provider, code }));
  return {
    outcome: { kind: "answered", providers, without, fault },
    failures,
    digest: request.question.algorithm === undefined ? "" : digestOf(answer.rows),
  };
}

/** Looks at an agent's own answer as CSV or Arrow while it comes in. It names no parties: all that were asked must be in it. */
export async function lookAtStream(
  request: PlannedRequest,
  format: Exclude<Format, "json">,
  chunks: AsyncIterable<Uint8Array>,
  oracle: Oracle,
): Promise<LookedAt> {
  const check = oracle.rowCheck(request.question.slice, request.providers);
  let fault = format === "csv" ? await takeCsv(chunks, check) : await takeArrow(chunks, check);
  fault ??= rowFaultText(check.faults());
  return { outcome: { kind: "answered", providers: request.providers, without: [], fault }, failures: [], digest: "" };
}

interface LookedAtResponse {
  readonly providers: readonly Steward[];
  readonly fault: string | undefined;
  readonly failure: { readonly provider: string; readonly code: string; readonly retryable: boolean } | undefined;
}

function lookAtResponse(request: PlannedRequest, answer: Answer, oracle: Oracle): LookedAtResponse {
  const { provider, rows = [], status, problem } = answer;
  const isWhole = status === "ok";
  const { names, failure: partial } = providersOf(request, answer);
  const fault = isWhole || rows.length > 0 ? responseFault(request, names, rows, isWhole, oracle) : undefined;
  if (isWhole) return { providers: names, fault: fault && `${provider}: ${fault}`, failure: partial };
  const { code = `status ${status}`, retryable = false } = problem ?? {};
  return { providers: [], fault: fault && `${provider}: ${fault}`, failure: { provider, code, retryable } };
}

function providersOf(
  request: PlannedRequest,
  { provider, providers = [] }: Answer,
): { readonly names: readonly Steward[]; readonly failure: LookedAtResponse["failure"] } {
  if (provider !== THIRD_PARTY) return { names: stewardsAmong([provider]), failure: undefined };
  const isIn = ({ status }: { readonly status?: string }): boolean => status === undefined || status === "ok";
  const names = stewardsAmong(providers.filter(isIn).map(({ name }) => name));
  const out = providers.find((entry) => !isIn(entry));
  return {
    names: providers.length === 0 ? request.providers : names,
    failure: out === undefined ? undefined : { provider: out.name, code: out.status ?? "none", retryable: false },
  };
}

function stewardsAmong(names: readonly string[]): readonly Steward[] {
  return STEWARDS.filter((steward) => names.includes(steward));
}

function responseFault(
  { question }: PlannedRequest,
  stewards: readonly Steward[],
  rows: readonly AnswerRow[],
  isWhole: boolean,
  oracle: Oracle,
): string | undefined {
  if (question.algorithm !== undefined) return isWhole ? oracle.algorithmFault(question, stewards, rows) : undefined;
  const check = oracle.rowCheck(question.slice, isWhole ? stewards : STEWARDS);
  for (const row of rows) {
    const { member, visit, team, worth, provider } = row;
    check.take([Number(member), Number(visit), Number(team), Number(worth)], provider as string | undefined);
  }
  const faults = check.faults();
  return rowFaultText(isWhole ? faults : { ...faults, missing: 0 });
}

function pooledFaults({ question }: PlannedRequest, { pooled }: GatheredAnswer, oracle: Oracle): string[] {
  if (pooled === undefined) return ["every party answered, and there is no pooled answer"];
  const stewards = stewardsAmong(pooled.providers ?? []);
  const fault = oracle.algorithmFault(question, stewards, pooled.rows ?? []);
  return fault === undefined ? [] : [`pooled over ${stewards.join(", ")}: ${fault}`];
}

function digestOf(rows: readonly AnswerRow[] | undefined): string {
  return rows === undefined ? "" : JSON.stringify(rows.map((row) => JSON.stringify(row)).sort());
}

const COLUMNS = ["member", "visit", "team", "worth"];

async function takeCsv(chunks: AsyncIterable<Uint8Array>, check: RowCheck): Promise<string | undefined> {
  let places: readonly number[] | undefined;
  for await (const line of linesOf(chunks)) {
    const cells = line.split(",");
    if (places === undefined) {
      places = [...COLUMNS, "provider"].map((name) => cells.indexOf(name));
      if (places.slice(0, COLUMNS.length).includes(-1)) return `the heading is ${line}`;
    } else {
      const [member = NaN, visit = NaN, team = NaN, worth = NaN, provider = NaN] = places;
      check.take(
        [member, visit, team, worth].map((place) => Number(cells[place])) as unknown as JoinedRow,
        cells[provider],
      );
    }
  }
  return places === undefined ? "it has no heading" : undefined;
}

async function* linesOf(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of chunks) {
    const parts = (rest + decoder.decode(chunk, { stream: true })).split(/\r?\n/);
    rest = parts.pop() ?? "";
    yield* parts;
  }
  if (rest !== "") yield rest;
}

async function takeArrow(chunks: AsyncIterable<Uint8Array>, check: RowCheck): Promise<string | undefined> {
  const held: Uint8Array[] = [];
  for await (const chunk of chunks) held.push(chunk);
  const table = tableFromIPC(Buffer.concat(held));
  const columns = COLUMNS.map((name) => table.getChild(name));
  const provider = table.getChild("provider");
  if (columns.some((column) => column === null)) return "a column is missing";
  for (let index = 0; index < table.numRows; index += 1) {
    const cells = columns.map((column) => Number(column?.get(index) ?? NaN));
    check.take(cells as unknown as JoinedRow, provider?.get(index) as string | undefined);
  }
  return undefined;
}
