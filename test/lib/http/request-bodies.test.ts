import assert from "node:assert/strict";
import { test } from "node:test";
import { parseApproval, parseDataRequest } from "../../../lib/http/request-bodies.ts";

const TYPE = "sqlDataRequest";
const parse = (body: unknown) => parseDataRequest(body, TYPE);

test("a data request in the prototype's forms is the same as in ours", () => {
  const ours = {
    type: TYPE,
    query: "SELECT 1",
    algorithm: "sum",
    algorithmColumns: { a: "b" },
    options: { graph: true, aggregate: false },
    user: { id: "1", userName: "ada@example.org" },
    requestMetadata: { jobId: "ada-1f2e3d4c" },
  };
  const { algorithmColumns, options, requestMetadata, ...same } = ours;
  const theirs = {
    ...same,
    ...options,
    algorithm_columns: algorithmColumns,
    request_metadata: requestMetadata,
    user: { id: "1", user_name: "ada@example.org" },
    unknown_member: 1,
  };
  assert.deepEqual(parse(ours), ours);
  assert.deepEqual(parse(theirs), ours);
});

test("options count before the older form's booleans", () => {
  assert.deepEqual(parse({ query: "q", graph: true, anonymize: true, options: { graph: false } }).options, {
    graph: false,
    anonymize: true,
  });
});

test("options that are no object are refused where they stand, with or without the older form's booleans", () => {
  for (const options of [["graph"], "graph", 1, null]) {
    assert.throws(() => parse({ query: "q", options, graph: true }), { code: "bad_request" }, JSON.stringify(options));
  }
});

test("members with the names of every object's own are members like any other", () => {
  for (const name of ["constructor", "toString", "hasOwnProperty", "valueOf"]) {
    assert.equal(parse({ query: "q", [name]: "x" }).query, "q");
    assert.equal(parse({ query: "q", options: { [name]: true } }).options?.[name], true);
  }
});

test("an approval's question is of the approval's type, and its faults are named from the body's root", () => {
  const approval = { type: TYPE, user: { id: "1", user_name: "ada@example.org" }, data_providers: ["VU"] };
  assert.deepEqual(parseApproval(approval).dataProviders, ["VU"]);
  assert.throws(() => parseApproval({ ...approval, data_request: { type: "other", query: "q" } }), {
    place: { pointer: "/data_request/type" },
  });
  assert.throws(() => parseApproval({ ...approval, data_request: { query: 5 } }), {
    place: { pointer: "/data_request/query" },
  });
});
