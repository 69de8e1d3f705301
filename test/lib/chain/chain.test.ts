import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { generateChain, type ChainInput } from "../../../lib/chain/chain.ts";
import { validateChainMetadata } from "../../../lib/chain/metadata.ts";
import { chainsToDot } from "../../../lib/chain/dot.ts";
import type { Archetype } from "../../../lib/model/archetype.ts";
import type { Microservice } from "../../../lib/model/microservice.ts";
import type { RequestType } from "../../../lib/model/request-type.ts";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { packageRoot } from "../../../lib/package-root.ts";

const read = <Document>(path: string): Document =>
  JSON.parse(readFileSync(join(packageRoot, "configuration", `${path}.json`), "utf8")) as Document;
const requestType = read<RequestType>("requestTypes/sqlDataRequest");
const microservices = ["sql-graph", "sql-algorithm", "sql-query", "sql-aggregate", "sql-anonymize"].map((name) =>
  read<Microservice>(`microservices/${name}`),
);
const archetypes = ["dataThroughTtp", "computeToData"].map((name) => read<Archetype>(`archetypes/${name}`));

const names = (input: Partial<ChainInput>): string[] =>
  generateChain({ requestType, microservices, archetype: "computeToData", role: "all", ...input }).services.map(
    ({ name }) => name,
  );

test("computeToData runs query, anonymize, algorithm and graph at the steward", () => {
  assert.deepEqual(names({}), ["sql-query", "sql-algorithm"]);
  assert.deepEqual(names({ options: { anonymize: true, graph: "true", aggregate: true } }), [
    "sql-query",
    "sql-anonymize",
    "sql-algorithm",
    "sql-graph",
  ]);
});

test("dataThroughTtp divides the chain between data provider and third party", () => {
  const options = { anonymize: true, graph: true };
  const archetype = "dataThroughTtp";
  assert.deepEqual(names({ archetype, role: "dataProvider", options }), ["sql-query", "sql-anonymize"]);
  assert.deepEqual(names({ archetype, role: "dataProvider" }), ["sql-query"]);
  assert.deepEqual(names({ archetype, role: "computeProvider", options }), [
    "sql-aggregate",
    "sql-algorithm",
    "sql-graph",
  ]);
});

test("a steward's forced services run though nobody asked", () => {
  assert.deepEqual(names({ forced: ["sql-anonymize"] }), ["sql-query", "sql-anonymize", "sql-algorithm"]);
  assert.throws(() => names({ forced: ["sql-nothing"] }), {
    code: "chain_invalid",
    message: /no microservice "sql-nothing"/,
  });
});

const changed = (name: string, changes: Partial<Microservice>): Microservice[] =>
  microservices.map((service) => (service.name === name ? { ...service, ...changes } : service));

test("a cycle, unconnected services and an empty chain are errors that name the services", () => {
  assert.throws(() => names({ microservices: changed("sql-algorithm", { allowedOutputs: ["sql-query"] }) }), {
    code: "chain_invalid",
    message: /cycle: (sql-query → sql-algorithm → sql-query|sql-algorithm → sql-query → sql-algorithm)/,
  });
  assert.throws(() => names({ microservices: changed("sql-query", { allowedOutputs: [] }) }), {
    code: "chain_invalid",
    message: /"sql-algorithm" and "sql-query" are not connected|"sql-query" and "sql-algorithm" are not connected/,
  });
  assert.throws(
    () =>
      names({
        microservices: changed("sql-algorithm", { invalidArchetypes: ["computeToData"] }),
        role: "computeProvider",
      }),
    {
      code: "chain_invalid",
      message: /every service of role computeProvider excludes this archetype: sql-aggregate, sql-algorithm/,
    },
  );
});

test("the sample metadata is valid, and each fault in it is found before it is stored", () => {
  const validate = (services: Microservice[], type: RequestType = requestType): void =>
    validateChainMetadata({ requestTypes: [type], microservices: services, archetypes });
  validate(microservices);
  assert.throws(() => validate(changed("sql-graph", { allowedOutputs: ["sql-query"] })), /Options: graph/);
  assert.throws(() => validate(changed("sql-graph", { allowedOutputs: ["sql-chart"] })), {
    code: "chain_invalid",
    message: /names microservice "sql-chart", which does not exist/,
    place: { pointer: "/allowedOutputs/0" },
  });
  assert.throws(() => validate(changed("sql-graph", { invalidArchetypes: ["byPost"] })), /archetype "byPost"/);
  assert.throws(() => validate(changed("sql-query", { invalidArchetypes: ["dataThroughTtp"] })), {
    code: "chain_invalid",
    message: /every service of role dataProvider excludes this archetype: sql-query/,
  });
  assert.throws(() => validate(changed("sql-anonymize", { allowedOutputs: ["sql-algorithm"] })), {
    code: "chain_invalid",
    message: /"sql-anonymize" at the data provider may not hand on to "sql-aggregate" at the third party/,
  });
  assert.throws(() => validate(microservices, { ...requestType, optionalServices: ["sql-chart"] }), {
    place: { pointer: "/optionalServices/sql-chart" },
  });
});

test("whatever the metadata, a generated chain is a topological order in which each service hands on to the next", () => {
  const letters = ["a", "b", "c", "d", "e", "f"];
  const services = fc.tuple(...letters.map(() => fc.subarray(letters)));
  let generated = 0;
  fc.assert(
    fc.property(
      services,
      fc.subarray(letters, { minLength: 1 }),
      fc.infiniteStream(fc.nat()),
      (outputs, required, random) => {
        const documents = letters.map((name, index): Microservice => ({
          name,
          label: "dataProvider",
          // Mostly forward edges, so that many inputs are chains.
          allowedOutputs: (outputs[index] ?? []).filter(
            (other) => other > name || (random.next().value ?? 0) % 16 === 0,
          ),
          invalidArchetypes: [],
        }));
        const input: ChainInput = {
          requestType: { name: "t", requiredServices: required, optionalServices: {} },
          microservices: documents,
          archetype: "x",
          role: "all",
        };
        let chain;
        try {
          chain = generateChain(input);
        } catch (error) {
          assert.equal((error as { code?: unknown }).code, "chain_invalid");
          return;
        }
        generated++;
        const order = chain.services.map(({ name }) => name);
        assert.deepEqual([...order].sort(), [...required].sort());
        for (const [from, to] of chain.edges)
          assert.ok(order.indexOf(from) < order.indexOf(to), `${from} before ${to}`);
        order
          .slice(1)
          .forEach((next, i) =>
            assert.ok(documents.find(({ name }) => name === order[i])?.allowedOutputs.includes(next)),
          );
        const shuffled = generateChain({ ...input, microservices: [...documents].reverse() });
        assert.deepEqual(shuffled, chain);
      },
    ),
    { numRuns: 500 },
  );
  assert.ok(generated > 20, `only ${String(generated)} of 500 inputs were chains`);
});

test("a chain is drawn with its path, its unused edges dashed, and quotes escaped", () => {
  const chain = generateChain({
    requestType,
    microservices,
    archetype: "computeToData",
    role: "all",
    options: { anonymize: true },
  });
  const dot = chainsToDot('a "title"', [{ title: "VU", chain }]);
  assert.match(dot, /digraph "a \\"title\\"" \{/);
  assert.match(dot, /"0\/sql-query" -> "0\/sql-anonymize";/);
  assert.match(dot, /"0\/sql-query" -> "0\/sql-algorithm" \[style=dashed/);
});

test("microservices that would be called the same in a job, or as the sidecar is, are refused by name", () => {
  const called = (...added: string[]) =>
    validateChainMetadata({
      requestTypes: [requestType],
      microservices: [
        ...microservices,
        ...added.map((name): Microservice => ({
          label: "dataProvider",
          allowedOutputs: [],
          invalidArchetypes: [],
          name,
        })),
      ],
      archetypes,
    });
  assert.throws(() => called("a.b", "a-b"), { code: "chain_invalid", message: /"a\.b".*"a-b"/ });
  assert.throws(() => called("sidecar"), { code: "chain_invalid", message: /"sidecar".*the sidecar/ });
  called("a.b", "a-c");
});
