/** The pooled answer at the front door (decisions 15 to 17; `docs/decisions/0009-answers-and-pooling.md`). */
import { poolSummaries, type PooledAnswer } from "../lib/algorithms/pooled.ts";
import { jsonRowPieces } from "../lib/data/batch-writers.ts";

/** An agent's JSON answer; only what pooling looks at is named. */
export interface AgentAnswer {
  readonly provider: string;
  readonly columns?: unknown;
  readonly rows?: readonly unknown[];
  readonly rowCount?: unknown;
  readonly summary?: unknown;
  readonly withheldGroups?: unknown;
  readonly withheldBins?: unknown;
  readonly withheldValues?: unknown;
  readonly minimumGroupSize?: unknown;
  readonly notes?: unknown;
  readonly providers?: unknown;
  readonly status?: unknown;
  readonly problem?: unknown;
  readonly [member: string]: unknown;
}

/** The `pooled` member of an answer. Without columns and rows where nothing that was asked for pools; `notes` says so. */
export interface Pooled {
  readonly columns?: unknown;
  readonly rows?: readonly unknown[];
  readonly rowCount?: number;
  readonly withheldGroups?: unknown;
  /** Where there are any. */
  readonly withheldBins?: unknown;
  /** Where there are any. */
  readonly withheldValues?: unknown;
  readonly minimumGroupSize?: unknown;
  /** Who is in it. */
  readonly providers: readonly string[];
  readonly notes: readonly string[];
}

/** Merges the stewards' summaries exactly. Fails as `poolSummaries` does. */
export async function poolAnswers(answers: readonly AgentAnswer[]): Promise<Pooled> {
  const minimumGroupSize = Math.max(1, ...answers.map((answer) => numberOr(answer.minimumGroupSize, 1)));
  const parts = answers.map(({ provider, summary }) => ({ provider, summary }));
  const { result, notes } = poolSummaries(parts, minimumGroupSize);
  const said = notes.notPooled.map(
    (name) =>
      `${name} does not pool without the stewards' rows: each steward's own value is in "responses"; for a pooled one ask with "options": {"aggregate": true}.`,
  );
  if (result === undefined) return { providers: notes.providers, notes: said };
  const rows = await rowsAsJson(result);
  return {
    columns: result.fields.map(({ name, type }) => ({ name, type: type.kind })),
    rows,
    rowCount: rows.length,
    withheldGroups: notes.withheldGroups,
    ...(notes.withheldBins > 0 ? { withheldBins: notes.withheldBins } : {}),
    ...(notes.withheldValues > 0 ? { withheldValues: notes.withheldValues } : {}),
    minimumGroupSize,
    providers: notes.providers,
    notes: said,
  };
}

/** What the third party computed over all stewards' rows is the pooled answer already. */
export function pooledOfThirdParty(answer: AgentAnswer, planned: readonly string[]): Pooled {
  const { columns, rows, rowCount, withheldGroups, withheldBins, withheldValues, minimumGroupSize, notes } = answer;
  return {
    columns,
    rows: rows ?? [],
    rowCount: numberOr(rowCount, rows?.length ?? 0),
    withheldGroups,
    ...(withheldBins === undefined ? {} : { withheldBins }),
    ...(withheldValues === undefined ? {} : { withheldValues }),
    minimumGroupSize,
    providers: providersIn(answer.providers) ?? planned,
    notes: Array.isArray(notes) ? notes.map(String) : [],
  };
}

/** The names of those whose streams the third party joined to their end, where it says. */
function providersIn(providers: unknown): readonly string[] | undefined {
  if (!Array.isArray(providers)) return undefined;
  return (providers as readonly unknown[]).flatMap((entry) => {
    if (typeof entry === "string") return [entry];
    if (typeof entry !== "object" || entry === null) return [];
    const { name, status } = entry as { readonly name?: unknown; readonly status?: unknown };
    return typeof name === "string" && (status === undefined || status === "ok") ? [name] : [];
  });
}

async function rowsAsJson({ fields, batches }: NonNullable<PooledAnswer["result"]>): Promise<unknown[]> {
  let text = "";
  for await (const piece of jsonRowPieces(fields, asAsync(batches))) text += piece;
  return JSON.parse(`[${text}]`) as unknown[];
}

async function* asAsync<Item>(items: readonly Item[]): AsyncGenerator<Item> {
  yield* items;
}

function numberOr(value: unknown, otherwise: number): number {
  return typeof value === "number" ? value : otherwise;
}
