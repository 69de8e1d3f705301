/** The charts' values: what each may be, and that every setting of the programs is among them. */
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { describe, test } from "node:test";
import { loadYaml } from "@kubernetes/client-node";
import type { TObject, TSchema } from "@sinclair/typebox";
import { AgentSettings } from "../../agent/config.ts";
import { packageRoot } from "../../lib/package-root.ts";
import { OrchestratorSettings } from "../../orchestrator/config.ts";
import { runProgram } from "../support/cluster-tools.ts";
import { readPackageFile, tableOf } from "../support/markdown.ts";
import { container, environmentOf, find, NO_HELM, refusal, render, type ChartName, type Values } from "./chart.ts";

const require = createRequire(`${packageRoot}/package.json`);

/** A JSON Schema, as far as these have it. */
interface Schema {
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly additionalProperties?: boolean | Schema;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly default?: unknown;
  readonly oneOf?: readonly Schema[];
}

interface Chart {
  readonly chart: ChartName;
  readonly settings: TObject;
  readonly needed: Values;
  /** Settings that the chart decides. */
  readonly decided: RegExp;
  /** Settings whose default is another in a cluster. */
  readonly otherDefault: readonly string[];
}

const CHARTS: readonly Chart[] = [
  {
    chart: "orchestrator",
    settings: OrchestratorSettings,
    needed: {},
    decided: /_(STORE|BUS|STATE_FOLDER|SEED_FOLDER|HOST|PORT|INSTANCE_URL|METRICS|EXIT_WITH_PARENT|TLS_\w+)$/,
    otherDefault: ["drainMs"],
  },
  {
    chart: "agent",
    settings: AgentSettings,
    needed: { steward: "VU" },
    decided:
      /_(STEWARD|STORE|BUS|CHAIN_BUS|JOBS|STATE_FOLDER|ORCHESTRATOR_URL|DATA_FILE|HOST|PORT|\w+ED_URL|INSTANCE_URL|METRICS|EXIT_WITH_PARENT|POD_NAME|TLS_\w+)$/,
    otherDefault: ["drainMs"],
  },
];

/** Values that are wrong, and where the fault is named. */
const WRONG: readonly (readonly [ChartName, Values, RegExp])[] = [
  ["agent", {}, /at '\/steward'/],
  ["agent", { steward: "Vrije Universiteit" }, /at '\/steward'.*does not match/],
  ["agent", { steward: "VU", stewards: "UVA" }, /'stewards' not allowed/],
  ["agent", { steward: "VU", replicas: 0 }, /at '\/replicas'/],
  ["agent", { steward: "VU", settings: { maxRun: 2 } }, /at '\/settings'.*'maxRun' not allowed/],
  ["agent", { steward: "VU", settings: { maxRuns: "two" } }, /at '\/settings\/maxRuns'/],
  ["agent", { steward: "VU", settings: { requestDeadlineMs: 2_000_000 } }, /at '\/settings\/requestDeadlineMs'/],
  ["agent", { steward: "VU", jobs: { limits: { memory: "1Gi" } } }, /at '\/jobs\/limits'.*'memory' not allowed/],
  ["agent", { steward: "VU", jobs: { scratch: "lots" } }, /at '\/jobs\/scratch'/],
  ["agent", { steward: "VU", state: { accessMode: "ReadWriteOncePod" } }, /at '\/state\/accessMode'/],
  ["agent", { steward: "VU", data: { sampleOf: "SURF" } }, /at '\/data\/sampleOf'/],
  ["agent", { steward: "VU", dataSets: { wageGap: { engine: "parquet" } } }, /at '\/dataSets\/wageGap/],
  ["agent", { steward: "VU", dataSets: { wageGap: { engine: "sqlite", file: "x" } } }, /at '\/dataSets\/wageGap/],
  ["agent", { steward: "VU", orchestratorUrl: "orchestrator:8080" }, /at '\/orchestratorUrl'/],
  ["agent", { steward: "VU", networkPolicy: { kubernetesApi: { cidrs: ["10.0.0.1"] } } }, /kubernetesApi\/cidrs\/0/],
  ["orchestrator", { seed: "everything" }, /at '\/seed'/],
  ["orchestrator", { seedConfigMaps: { archetype: "x" } }, /'archetype' not allowed/],
  ["orchestrator", { image: { pullPolicy: "Sometimes" } }, /at '\/image\/pullPolicy'/],
  ["orchestrator", { image: { name: "dynamos" } }, /'name' not allowed/],
  ["orchestrator", { policyEnforcer: { replicas: "2" } }, /at '\/policyEnforcer\/replicas'/],
  ["orchestrator", { networkPolicy: { store: { ports: [99_999] } } }, /at '\/networkPolicy\/store\/ports\/0'/],
  ["orchestrator", { metrics: { serviceMonitor: { interval: "often" } } }, /serviceMonitor\/interval'/],
  ["orchestrator", { preStopSeconds: 0 }, /at '\/preStopSeconds'/],
  ["orchestrator", { test: { providers: ["the VU"] } }, /at '\/test\/providers\/0'/],
];

for (const { chart, settings, needed, decided, otherDefault } of CHARTS) {
  const schema = require(`./charts/${chart}/values.schema.json`) as Schema;
  const programs = Object.entries(settings.properties as Record<string, TSchema>).filter(([name]) =>
    name.startsWith("DYNAMOS_"),
  );
  const reachable = programs
    .filter(([name]) => !decided.test(name))
    .map(([name, of]) => [nameOfValue(name), of] as const);

  test(`every setting of the ${chart} is a value under "settings", with the same limits, default and description`, () => {
    const described = (text: string | undefined): string =>
      (text ?? "").replace(/DYNAMOS_[A-Z_]+/g, (name) => nameOfValue(name));
    const limitsOf = (one: Schema): Schema => ({
      ...(one.minimum === undefined ? {} : { minimum: one.minimum }),
      ...(one.maximum === undefined ? {} : { maximum: one.maximum }),
      ...(one.default === undefined ? {} : { default: one.default }),
      description: described(one.description),
    });
    const expected = reachable.map(([name, one]) => [name, limitsOf(one as Schema)]);
    const offered = Object.entries(schema.properties?.["settings"]?.properties ?? {}).map(([name, one]) => [
      name,
      limitsOf(one),
    ]);
    assert.deepEqual(Object.fromEntries(offered), Object.fromEntries(expected));
  });

  test(`the schema of the ${chart}'s values says what each is, and refuses names that it does not know`, () => {
    const faults = [...walk(schema, "")].flatMap(([path, one]) => [
      ...(one.description === undefined && path !== "" ? [`${path} has no description`] : []),
      ...(one.properties !== undefined && one.additionalProperties !== false ? [`${path} takes any name`] : []),
    ]);
    assert.deepEqual(faults, []);
  });

  test(`the ${chart}'s values.yaml has every value that its schema has, and a comment at each first name`, async () => {
    const text = await readPackageFile(`charts/${chart}/values.yaml`);
    const values = loadYaml<Record<string, unknown>>(text);
    assert.deepEqual(missingFrom(values, schema, ""), []);
  });

  test(`what the ${chart}'s settings say reaches its environment as it was written`, { skip: NO_HELM }, async () => {
    const numbers = reachable.filter(([, { type }]) => type === "integer");
    const written = Object.fromEntries(
      numbers.map(([name, { minimum = 0, maximum = 30_000_000_000 }]) => [
        name,
        Math.min(Number(maximum), Math.max(Number(minimum), 30_000_000_000)),
      ]),
    );
    const objects = await render(chart, { ...needed, settings: written });
    const { spec } = find<{ spec: { template: { spec: Parameters<typeof container>[0] } } }>(
      objects,
      "StatefulSet",
      "it",
    );
    const environment = environmentOf(container(spec.template.spec, chart));
    for (const [name] of programs.filter(([, { type }]) => type === "integer")) {
      const value = written[nameOfValue(name)];
      if (value !== undefined) assert.equal(environment[name], String(value));
    }
    assert.ok(otherDefault.every((name) => name in written));
  });

  test(`helm finds nothing to complain of in charts/${chart}`, { skip: NO_HELM }, async () => {
    const set = Object.entries(needed).flatMap(([name, value]) => ["--set", `${name}=${String(value)}`]);
    const path = `${packageRoot}/charts/${chart}`;
    const { code, stdout, stderr } = await runProgram("helm", ["lint", "--strict", path, ...set]);
    assert.equal(code, 0, stdout + stderr);
  });

  test(`without settings the ${chart}'s programs use their own`, { skip: NO_HELM }, async () => {
    const objects = await render(chart, needed);
    const { spec } = find<{ spec: { template: { spec: Parameters<typeof container>[0] } } }>(
      objects,
      "StatefulSet",
      "it",
    );
    const set = Object.keys(environmentOf(container(spec.template.spec, chart)));
    const known = programs.map(([name]) => name);
    assert.deepEqual(set.filter((name) => known.includes(name) && !decided.test(name)).map(nameOfValue), otherDefault);
  });

  test(`the ${chart}'s dashboard asks for metrics that there are`, async () => {
    const dashboard = await readPackageFile(`charts/${chart}/dashboards/${chart}.json`);
    const rows = tableOf(await readPackageFile("docs/operations.md"), "Metrics").rows;
    const there = rows.map((row) => (row["Metric"] ?? "").replaceAll("`", "").replaceAll(".", "_"));
    const asked = [...dashboard.matchAll(/\b((?:dynamos|http_server|process|nodejs|v8js)_[a-z0-9_]+)/g)].map(
      (match) =>
        match[1]
          ?.replace(/_(bucket|count|sum)$/, "")
          .replace(/_total$/, "")
          .replace(/_(seconds|bytes)$/, "") ?? "",
    );
    assert.ok(asked.length > 10);
    assert.deepEqual(
      asked.filter((name) => !there.includes(name)),
      [],
    );
  });
}

describe("wrong values are refused, by their names", { skip: NO_HELM }, () => {
  for (const [chart, values, fault] of WRONG) {
    test(`${chart}: ${JSON.stringify(values)}`, async () => {
      assert.match(await refusal(chart, values), fault);
    });
  }
});

/** `maxRuns` of `DYNAMOS_MAX_RUNS`. */
function nameOfValue(setting: string): string {
  return setting
    .slice("DYNAMOS_".length)
    .toLowerCase()
    .replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
}

function* walk(schema: Schema, path: string): Generator<readonly [string, Schema]> {
  yield [path, schema];
  for (const [name, one] of Object.entries(schema.properties ?? {})) yield* walk(one, `${path}/${name}`);
}

/** Values that are neither there nor shown in a comment: those of "settings" and the like are the programs'. */
function missingFrom(values: unknown, schema: Schema, path: string): string[] {
  if (typeof values !== "object" || values === null || Object.keys(values).length === 0) return [];
  return Object.entries(schema.properties ?? {}).flatMap(([name, one]) => {
    if (["global", "claims"].includes(name)) return [];
    if (!(name in values)) return [`${path}/${name}`];
    return missingFrom((values as Record<string, unknown>)[name], one, `${path}/${name}`);
  });
}
