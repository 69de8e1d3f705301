/** An exchange whose parts speak HTTPS alone, with certificates of an authority that only they are told to trust. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { connect } from "node:tls";
import { once } from "node:events";
import { test } from "node:test";
import { ExchangeClient } from "../../cli/client.ts";
import { averageSalaryBySex } from "../../cli/demo/known-answer.ts";
import { systemClock } from "../../lib/clock.ts";
import { fetchTrusted } from "../../lib/http/fetch.ts";
import { createLogger } from "../../lib/telemetry/logger.ts";
import { openTrust } from "../../lib/tls/trust.ts";
import { CertificateAuthority, noCertificates } from "../support/certificates.ts";
import { dynamos } from "../support/command.ts";
import { eventually } from "../support/eventually.ts";
import { ANALYST, SALARY_QUERY, testExchange } from "../support/exchange.ts";
import { MountedFiles, tlsSecret } from "../support/mounted-files.ts";

const QUESTION = {
  type: "sqlDataRequest",
  query: SALARY_QUERY,
  algorithm: "average",
  algorithmColumns: { Geslacht: "Aanst_22" },
};
const skip = noCertificates();

if (skip === false) await exchangeWithTls();
else test("an exchange with TLS", { skip }, () => undefined);

async function exchangeWithTls(): Promise<void> {
  const authority = await CertificateAuthority.make();
  const secret = await MountedFiles.make({
    ...(await tlsSecret(await authority.certificate())),
    "ca.crt": await readFile(authority.caFile),
  });
  const secretOfUva = await MountedFiles.make(await tlsSecret(await authority.certificate()));
  const exchange = await testExchange({
    replicas: { orchestrator: 2, agent: { VU: 2 } },
    environment: {
      DYNAMOS_TLS_CERT_FILE: secret.path("tls.crt"),
      DYNAMOS_TLS_KEY_FILE: secret.path("tls.key"),
      DYNAMOS_TLS_CA_FILE: secret.path("ca.crt"),
    },
    environmentOf: {
      "agent-UVA": {
        DYNAMOS_TLS_CERT_FILE: secretOfUva.path("tls.crt"),
        DYNAMOS_TLS_KEY_FILE: secretOfUva.path("tls.key"),
      },
    },
  });
  const trust = await openTrust(authority.caFile, { clock: systemClock, logger: createLogger("test", {}, "silent") });
  exchange.atEnd(() => trust.close());
  const clients = exchange.urls.map((url) => new ExchangeClient(url, trust));

  for (const [archetype, options] of [
    ["computeToData", {}],
    ["dataThroughTtp", { aggregate: true }],
  ] as const) {
    test(`an exchange with TLS answers by ${archetype} as without`, async () => {
      const answer = await clients[0]!.ask({
        type: "sqlDataRequest",
        user: ANALYST,
        dataProviders: ["VU", "UVA"],
        data_request: { ...QUESTION, options },
      });
      assert.deepEqual([answer.archetype, answer.status], [archetype, "ok"]);
      const rows = answer.pooled?.rows ?? [];
      const known = await averageSalaryBySex(join(exchange.configuration, "data"), ["VU", "UVA"]);
      assert.equal(rows.length, known.size);
      for (const { Geslacht: sex, average_Aanst_22: found } of rows) {
        const average = known.get(String(sex ?? "")) ?? Number.NaN;
        assert.ok(Math.abs(Number(found) - average) <= 1e-9 * average, `${String(sex)}: ${String(found)}`);
      }
    });
  }

  test("an exchange with TLS names its parts by https, and speaks nothing else", async () => {
    for (const url of exchange.urls) {
      assert.match(url, /^https:/);
      await assert.rejects(fetch(`${url.replace("https:", "http:")}/health`));
      // Nobody told this process's fetch whom to trust.
      await assert.rejects(fetch(`${url}/health`));
    }
    const approval = await clients[0]!.requestApproval({
      type: "sqlDataRequest",
      user: ANALYST,
      dataProviders: ["VU"],
    });
    assert.match(approval.authorizedProviders["VU"] ?? "", /^https:/);
  });

  test("an exchange with TLS passes requests on between instances of an agent", async () => {
    const { auth } = await clients[0]!.requestApproval({
      type: "sqlDataRequest",
      user: ANALYST,
      dataProviders: ["VU"],
    });
    const agents = ["agent-VU", "agent-VU-2"].map((name) => exchange.services.get(name)?.url ?? "");
    const key = { token: auth.accessToken, idempotencyKey: "2d6c8f1e-5b0a-4c6e-9a55-0f6d8f3f4b11" };
    const answers = [];
    for (const url of agents) {
      answers.push(await clients[0]!.askAgent(`${url}/agent/v1/sqlDataRequest/vu`, QUESTION, key));
    }
    // The second one has not run it: it got the kept answer from the first.
    assert.deepEqual(answers[1]?.rows, answers[0]?.rows);
    assert.equal(answers[1]?.requestId, answers[0]?.requestId);
    const metrics = await (await fetchTrusted(`${agents[1] ?? ""}/metrics`, { trust })).text();
    assert.match(metrics, /^dynamos_request_forwarded_total(\{\})? 1$/m);
  });

  test("an exchange with TLS passes requests on between orchestrators", async () => {
    const [first = "", second = ""] = exchange.urls;
    const accepted = await fetchTrusted(`${first}/api/v1/requestApproval`, {
      method: "POST",
      headers: { prefer: "respond-async" },
      body: { type: "sqlDataRequest", user: ANALYST, dataProviders: ["VU"], data_request: QUESTION },
      trust,
    });
    const { location, auth } = (await accepted.json()) as { location: string; auth: { accessToken: string } };
    assert.equal(accepted.status, 202);
    await eventually(
      async () => {
        const answer = await fetchTrusted(new URL(location, second).href, {
          headers: { authorization: `Bearer ${auth.accessToken}` },
          trust,
        });
        const text = await answer.text();
        return answer.status === 200 && (JSON.parse(text) as { status: string }).status === "ok";
      },
      { timeoutMs: 60_000 },
    );
    const metrics = await (await fetchTrusted(`${second}/metrics`, { trust })).text();
    assert.match(metrics, /^dynamos_request_forwarded_total(\{\})? [1-9]/m);
  });

  test("an exchange with TLS is well, says the doctor who is told the authority; who is not told learns what helps", async () => {
    const places = ["--state", exchange.stateFolder, "--store", exchange.storeUrl, "--bus", exchange.busUrl];
    const told = await dynamos("doctor", ...places, "--ca", authority.caFile);
    assert.equal(told.code, 0, told.stdout);
    assert.match(told.stdout, /The certificate of 127\.0\.0\.1:\d+ is valid until/);
    const untold = await dynamos("doctor", ...places);
    assert.equal(untold.code, 1);
    assert.match(untold.stdout, /not trusted here.*--ca/);
  });

  test("an exchange with TLS serves a renewed certificate without a restart", async () => {
    const pids = [...exchange.services.values()].map(({ pid }) => pid);
    const [url] = exchange.urls as [string];
    const before = await serial(url);
    await secret.swap({
      ...(await tlsSecret(await authority.certificate())),
      "ca.crt": await readFile(authority.caFile),
    });
    await eventually(async () => (await serial(url)) !== before, { timeoutMs: 20_000 });
    assert.deepEqual(
      [...exchange.services.values()].map(({ pid }) => pid),
      pids,
    );
  });

  test("an exchange with TLS names an agent whose certificate it does not trust, with what helps; others answer", async () => {
    const url = exchange.services.get("agent-UVA")?.url ?? "";
    const before = await serial(url);
    const stranger = await CertificateAuthority.make("A stranger");
    await secretOfUva.swap(await tlsSecret(await stranger.certificate()));
    await eventually(async () => (await serial(url)) !== before, { timeoutMs: 20_000 });
    const answer = await clients[0]!.ask({
      type: "sqlDataRequest",
      user: ANALYST,
      dataProviders: ["VU", "UVA"],
      data_request: { ...QUESTION, options: { allowPartial: true } },
    });
    const [uva, vu] = ["UVA", "VU"].map((name) => answer.responses.find(({ provider }) => provider === name));
    assert.deepEqual([answer.status, vu?.status, uva?.status], ["partial", "ok", "failed"]);
    assert.deepEqual([uva?.problem?.code, uva?.problem?.party], ["unavailable", "UVA"]);
    assert.match(uva?.problem?.detail ?? "", /not trusted here.*DYNAMOS_TLS_CA_FILE/);
  });
}

/** Of the certificate that is shown there. */
async function serial(url: string): Promise<string> {
  const socket = connect({ host: "127.0.0.1", port: Number(new URL(url).port), rejectUnauthorized: false });
  await once(socket, "secureConnect");
  const { serialNumber } = socket.getPeerCertificate();
  socket.destroy();
  return serialNumber;
}
