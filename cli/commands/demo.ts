/** `dynamos demo`: the whole story on one machine, with its answers checked against an independent computation. */
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { toAppError, type AppError } from "../../lib/errors.ts";
import type { Agreement } from "../../lib/model/agreement.ts";
import type { DataRequest, RequestApproval } from "../../lib/model/data-request.ts";
import { ExchangeClient, type AnswerRow, type GatheredAnswer } from "../client.ts";
import { averageSalaryBySex, type AverageBySex } from "../demo/known-answer.ts";
import { tableText } from "../demo/table-text.ts";
import { storeOfItsOwn } from "../exchange/backends.ts";
import { startExchange } from "../exchange/exchange.ts";
import { exchangeSettings, type ExchangeFlags } from "../exchange/settings.ts";
import { prepareSample } from "./up.ts";

/** Options of the command. */
export interface DemoOptions {
  readonly write: (line: string) => void;
  /** Leaves the state folder for looking at. */
  readonly keep: boolean;
  readonly flags: ExchangeFlags;
}

const ANALYST = { id: "analyst-1", userName: "analyst@example.org" };
const QUESTION: DataRequest = {
  type: "sqlDataRequest",
  query:
    "SELECT p.Geslacht, a.Aanst_22 FROM Personen p JOIN Aanstellingen a ON p.Unieknr = a.Unieknr AND p.Peildat = a.Peildat",
  algorithm: "average",
  algorithmColumns: { Geslacht: "Aanst_22" },
};
const APPROVAL: RequestApproval = { type: "sqlDataRequest", user: ANALYST, dataProviders: ["VU", "UVA"] };

/** What one step of the story works with. */
export interface Story {
  readonly client: ExchangeClient;
  readonly adminKey: string;
  readonly known: AverageBySex;
  readonly outputFolder: string;
  readonly write: (line: string) => void;
  /** Notes a check; a failed one makes the demo fail at its end. */
  readonly check: (what: string, holds: boolean) => void;
}

/** Plays the story; the exit code is 0 only when every answer is the known one. */
export async function demo(options: DemoOptions): Promise<number> {
  const startedMs = performance.now();
  const { write } = options;
  const stateFolder = join(process.cwd(), ".dynamos", `demo-${String(process.pid)}`);
  const outputFolder = join(process.cwd(), ".dynamos", "demo-output");
  await mkdir(outputFolder, { recursive: true });
  write("Starting the exchange: VU, UVA and RUG are data stewards, SURF is a trusted third party.");
  const configuration = await prepareSample(write);
  const known = await averageSalaryBySex(join(configuration, "data"), ["VU", "UVA"]);
  const failures: string[] = [];
  const settings = await exchangeSettings(options.flags, configuration);
  const store = storeOfItsOwn(settings.storeUrl, `demo-${String(process.pid)}`);
  const exchange = await startExchange({
    ...settings,
    ...(store === undefined ? {} : { storeUrl: store.url }),
    configuration,
    stateFolder,
    port: 0,
    onProgress: (message) => write(`  ${message}`),
  });
  try {
    const story: Story = {
      client: new ExchangeClient(exchange.url),
      adminKey: (await readFile(exchange.adminKeyFile, "utf8")).trim(),
      known,
      outputFolder,
      write,
      check: (what, holds) => {
        write(`  ${holds ? "ok" : "WRONG"}: ${what}`);
        if (!holds) failures.push(what);
      },
    };
    await playStory(story);
  } finally {
    await exchange.stop();
    await store?.remove();
    if (!options.keep) await rm(stateFolder, { recursive: true, force: true });
  }
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
  if (failures.length === 0) write(`\nAll answers are the known ones. ${seconds} s.`);
  else write(`\n${String(failures.length)} answers are wrong: ${failures.join("; ")}.`);
  return failures.length === 0 ? 0 : 1;
}

/**
 * Asks, of any exchange that has the sample's documents, VU and UVA with the sample's data, and SURF. Each answer is written and
 * checked as it comes; two exchanges with the same data tell the same story, but for the pseudonyms.
 */
export async function playStory(story: Story): Promise<void> {
  const compute = await computeToData(story);
  const through = await dataThroughTtp(story);
  await anonymized(story);
  await chart(story);
  await refusal(story);
  await switchArchetype(story);
  story.write("\nThe known answer, computed from the files alone, and what came back:");
  const rows = [...story.known].sort().map(([sex, average]) => ({
    Geslacht: sex,
    "known average": average,
    computeToData: averageOf(compute, sex),
    dataThroughTtp: averageOf(through, sex),
  }));
  story.write(indent(tableText(rows)));
  const men = story.known.get("M") ?? Number.NaN;
  const women = story.known.get("V") ?? Number.NaN;
  story.write(`  The wage gap in the made-up data is ${(100 * (1 - women / men)).toFixed(2)} %.`);
}

async function computeToData(story: Story): Promise<readonly AnswerRow[]> {
  story.write("\n1. Average salary by sex at VU and UVA. Each computes at home (computeToData).");
  const answer = await story.client.ask({ ...APPROVAL, data_request: QUESTION });
  for (const { provider, rows } of answer.responses) story.write(indent(`${provider}:\n${tableText(rows ?? [])}`));
  story.write(indent(`pooled, without a row leaving:\n${tableText(answer.pooled?.rows ?? [])}`));
  story.check("the archetype is computeToData", answer.archetype === "computeToData");
  checkAverages(story, answer);
  return answer.pooled?.rows ?? [];
}

async function dataThroughTtp(story: Story): Promise<readonly AnswerRow[]> {
  story.write("\n2. The same question through the trusted third party SURF (dataThroughTtp).");
  const answer = await story.client.ask({
    ...APPROVAL,
    options: { aggregate: true },
    data_request: { ...QUESTION, options: { aggregate: true } },
  });
  story.write(indent(tableText(answer.pooled?.rows ?? [])));
  story.check("the archetype is dataThroughTtp", answer.archetype === "dataThroughTtp");
  checkAverages(story, answer);
  return answer.pooled?.rows ?? [];
}

async function anonymized(story: Story): Promise<void> {
  story.write("\n3. Rows, with what is sensitive in them anonymized.");
  const query = "SELECT Unieknr, Geslacht, Gebdat, Nationaliteit FROM Personen ORDER BY Unieknr LIMIT 3";
  const answer = await story.client.ask({
    ...APPROVAL,
    dataProviders: ["VU"],
    data_request: { type: "sqlDataRequest", query, options: { anonymize: true } },
  });
  const rows = answer.responses[0]?.rows ?? [];
  story.write(indent(tableText(rows)));
  story.check("three rows came", rows.length === 3);
  const isNumber = (value: unknown): boolean => typeof value === "string" && /^\d{9}$/.test(value);
  story.check("no personnel number is among them", rows.length > 0 && !rows.some((row) => isNumber(row["Unieknr"])));
}

async function chart(story: Story): Promise<void> {
  story.write("\n4. A chart.");
  const answer = await story.client.ask({
    ...APPROVAL,
    options: { aggregate: true, graph: true },
    data_request: {
      ...QUESTION,
      query: QUESTION.query.replace("p.Geslacht", "p.Geslacht, a.Functcat"),
      algorithmColumns: { "Functcat, Geslacht": "Aanst_22" },
      options: { aggregate: true, graph: true },
    },
  });
  const graph = answer.responses[0]?.graph;
  const png = Buffer.from(graph?.png ?? "", "base64");
  const path = join(story.outputFolder, "average-salary.png");
  await writeFile(path, png);
  await writeFile(path.replace(/png$/, "svg"), graph?.svg ?? "");
  story.write(`  ${path}`);
  story.check(
    "the chart is a picture",
    png.subarray(1, 4).toString("latin1") === "PNG" && (graph?.svg ?? "").includes("<svg"),
  );
}

async function refusal(story: Story): Promise<void> {
  story.write("\n5. RUG has no agreement with this analyst.");
  const refused = await failureOf(story.client.ask({ ...APPROVAL, dataProviders: ["RUG"], data_request: QUESTION }));
  const reasons = (refused?.details["refused"] ?? []) as GatheredAnswer["refused"];
  for (const { provider, code, detail } of reasons) story.write(`  ${provider} [${code}]: ${detail}`);
  story.check(
    "RUG is refused with a reason",
    reasons.some(({ provider, code }) => provider === "RUG" && code !== ""),
  );
}

async function switchArchetype(story: Story): Promise<void> {
  story.write("\n6. VU changes its agreement: from now on only dataThroughTtp. The analyst's token stays the same.");
  const approval = await story.client.requestApproval(APPROVAL);
  const before = await story.client.askAgain(QUESTION, { token: approval.auth.accessToken });
  const agreement = (await story.client.get("policyEnforcer/VU", { token: story.adminKey })) as Agreement;
  await story.client.put("policyEnforcer", { ...agreement, archetypes: ["dataThroughTtp"] }, { token: story.adminKey });
  const after = await askUntilSwitched(story, approval.auth.accessToken);
  // A store that is kept tells the same story next time.
  await story.client.put("policyEnforcer", agreement, { token: story.adminKey });
  story.write(`  before: ${before.archetype}; after: ${after.archetype}`);
  story.check(
    "the archetype switched under the same token",
    before.archetype === "computeToData" && after.archetype === "dataThroughTtp",
  );
  checkAverages(story, after);
}

/** The change takes effect at once; the plan follows within a moment, until when the old one is refused. */
async function askUntilSwitched(story: Story, token: string): Promise<GatheredAnswer> {
  const deadlineMs = performance.now() + 10_000;
  for (;;) {
    try {
      return await story.client.askAgain(QUESTION, { token });
    } catch (error) {
      const known = toAppError(error);
      const mayCome = known.code === "agreement_gone" || known.code === "job_moved";
      if (!mayCome || performance.now() > deadlineMs) throw known;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}

function checkAverages(story: Story, answer: GatheredAnswer): void {
  for (const [sex, average] of story.known) {
    const found = averageOf(answer.pooled?.rows ?? [], sex);
    const label = sex === "" ? "(unknown)" : sex;
    story.check(
      `the pooled average for ${label} is ${average.toFixed(2)}`,
      Math.abs(found - average) <= 1e-9 * average,
    );
  }
}

function averageOf(rows: readonly AnswerRow[], sex: string): number {
  const row = rows.find(({ Geslacht }) => (Geslacht ?? "") === sex);
  return Number(row?.["average_Aanst_22"] ?? Number.NaN);
}

async function failureOf(work: Promise<unknown>): Promise<AppError | undefined> {
  try {
    await work;
    return undefined;
  } catch (error) {
    return toAppError(error);
  }
}

function indent(text: string): string {
  return text.replace(/^/gm, "  ");
}
