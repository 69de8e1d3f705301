/** HTTPS between parts: real servers and callers, with certificates of an authority of the test's own. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { connect as connectTcp, type AddressInfo } from "node:net";
import { connect, type TLSSocket } from "node:tls";
import { describe, test, type TestContext } from "node:test";
import { systemClock } from "../../../lib/clock.ts";
import { type AppError, toAppError } from "../../../lib/errors.ts";
import { fetchTrusted } from "../../../lib/http/fetch.ts";
import { callService } from "../../../lib/http/outgoing.ts";
import { certificateDependency, readinessOf } from "../../../lib/http/readiness.ts";
import { createHttpServer } from "../../../lib/http/server.ts";
import { createLogger } from "../../../lib/telemetry/logger.ts";
import { ServerCertificate } from "../../../lib/tls/server-certificate.ts";
import { NODE_TRUST, openTrust, type Trust } from "../../../lib/tls/trust.ts";
import { CertificateAuthority, noCertificates, type CertificateFiles } from "../../support/certificates.ts";
import { eventually } from "../../support/eventually.ts";
import { MountedFiles, tlsSecret } from "../../support/mounted-files.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const parts = { clock: systemClock, logger: createLogger("test", {}, "silent"), lookEveryMs: 20 };
const skip = noCertificates();

async function serve(t: TestContext, { certFile, keyFile }: CertificateFiles) {
  const certificate = await ServerCertificate.open(
    { DYNAMOS_TLS_CERT_FILE: certFile, DYNAMOS_TLS_KEY_FILE: keyFile },
    parts,
  );
  assert.ok(certificate);
  t.after(() => certificate.close());
  const readiness = readinessOf(certificateDependency(certificate), { clock: systemClock });
  const server = createHttpServer({ logger: parts.logger, readiness, certificate });
  let letGo = (): void => {};
  const held = new Promise<void>((resolve) => (letGo = resolve));
  const state = { held: 0 };
  server.get("/slow", async (_request, reply) => {
    state.held++;
    reply.raw.writeHead(200);
    reply.raw.write("begun ");
    await held;
    reply.raw.end("ended");
    return reply;
  });
  server.post("/echo", async (request) => request.body);
  await server.listen({ host: "127.0.0.1", port: 0 });
  t.after(() => server.close());
  const { port } = server.server.address() as AddressInfo;
  return { server, readiness, port, url: `https://127.0.0.1:${String(port)}`, state, letGo };
}

async function trusting(t: TestContext, caFile: string): Promise<Trust> {
  const trust = await openTrust(caFile, parts);
  t.after(() => trust.close());
  return trust;
}

/** The status of `/health`, by a connection of its own. */
async function health(url: string, trust: Trust): Promise<number> {
  const answer = await callService(new URL("/health", url), {
    method: "GET",
    headers: {},
    signal: AbortSignal.timeout(5000),
    trust,
  });
  answer.resume();
  await once(answer, "end");
  return answer.statusCode ?? 0;
}

async function servedSerial(port: number): Promise<string> {
  const socket = connect({ host: "127.0.0.1", port, rejectUnauthorized: false });
  await once(socket, "secureConnect");
  const { serialNumber } = socket.getPeerCertificate();
  socket.destroy();
  return serialNumber;
}

describe("a server with a certificate", { skip }, () => {
  test("answers callers who trust its authority, with body, headers and status", async (t) => {
    const authority = await CertificateAuthority.make();
    const { url } = await serve(t, await authority.certificate());
    const trust = await trusting(t, authority.caFile);
    assert.equal(await health(url, trust), 200);
    const echoed = await fetchTrusted(`${url}/echo`, { method: "POST", body: { a: ["ü", 1] }, trust });
    assert.deepEqual([echoed.status, await echoed.json()], [200, { a: ["ü", 1] }]);
    const nothing = await fetchTrusted(`${url}/nothing`, { trust });
    assert.match(nothing.headers.get("content-type") ?? "", /^application\/problem\+json/);
    assert.deepEqual([nothing.status, ((await nothing.json()) as { code: string }).code], [404, "not_found"]);
  });

  test("speaks TLS 1.2 and later, and nothing before", async (t) => {
    const authority = await CertificateAuthority.make();
    const { port } = await serve(t, await authority.certificate());
    const speak = async (version: "TLSv1.1" | "TLSv1.2" | "TLSv1.3"): Promise<TLSSocket> => {
      const options = { minVersion: version, maxVersion: version, ciphers: "DEFAULT@SECLEVEL=0" } as const;
      const socket = connect({ host: "127.0.0.1", port, rejectUnauthorized: false, ...options });
      t.after(() => socket.destroy());
      await once(socket, "secureConnect");
      return socket;
    };
    assert.equal((await speak("TLSv1.2")).getProtocol(), "TLSv1.2");
    assert.equal((await speak("TLSv1.3")).getProtocol(), "TLSv1.3");
    await assert.rejects(speak("TLSv1.1"));
  });

  test("outlives whoever speaks plain HTTP to it, or nothing at all, and closes all the same", async (t) => {
    const authority = await CertificateAuthority.make();
    const { server, url, port } = await serve(t, await authority.certificate());
    const trust = await trusting(t, authority.caFile);
    await assert.rejects(fetch(`http://127.0.0.1:${String(port)}/health`));
    const silent = connectTcp(port, "127.0.0.1");
    t.after(() => silent.destroy());
    await once(silent, "connect");
    assert.equal(await health(url, trust), 200);
    const ended = once(silent, "close");
    const begun = performance.now();
    await server.close();
    await ended;
    // The handshake's own limit is ten seconds.
    assert.ok(performance.now() - begun < 8_000, "it waited for the silent connection");
  });
});

describe("a caller", { skip }, () => {
  const cases: readonly {
    readonly of: string;
    readonly make: (authority: CertificateAuthority) => Promise<CertificateFiles>;
    readonly says: RegExp;
  }[] = [
    {
      of: "that has expired",
      make: (authority) => authority.certificate("localhost", { days: -1 }),
      says: /expired.*DYNAMOS_TLS_CERT_FILE/,
    },
    {
      of: "for another name",
      make: (authority) => authority.certificate("other", { names: "DNS:other.example.org" }),
      says: /for other names.*127\.0\.0\.1/s,
    },
    {
      of: "of an authority that it does not know",
      make: async () => (await CertificateAuthority.make("Another authority")).certificate(),
      says: /not trusted here.*DYNAMOS_TLS_CA_FILE/,
    },
  ];
  for (const { of, make, says } of cases) {
    test(`refuses a certificate ${of}, and says what helps`, async (t) => {
      const authority = await CertificateAuthority.make();
      const { url } = await serve(t, await make(authority));
      await assert.rejects(health(url, await trusting(t, authority.caFile)), (error: AppError) => {
        assert.equal(error.code, "unavailable");
        assert.match(error.message, says);
        assert.match(error.message, new RegExp(url.replaceAll(".", "\\.")));
        return true;
      });
    });
  }

  test("who trusts what Node trusts refuses an authority of somebody's own", async (t) => {
    const authority = await CertificateAuthority.make();
    const { url } = await serve(t, await authority.certificate());
    await assert.rejects(health(url, NODE_TRUST), { code: "unavailable", message: /DYNAMOS_TLS_CA_FILE/ });
  });

  test("of a server that speaks no TLS learns that", async (t) => {
    const server = createHttpServer({ logger: parts.logger, readiness: async () => [] });
    t.after(() => server.close());
    const url = await server.listen({ host: "127.0.0.1", port: 0 });
    await assert.rejects(health(url.replace("http:", "https:"), NODE_TRUST), {
      code: "unavailable",
      message: /does not speak TLS/,
    });
  });

  test("trusts every authority of its file, those of NODE_EXTRA_CA_CERTS, and Node's own", async (t) => {
    const authorities = await Promise.all(["one", "two", "extra"].map((name) => CertificateAuthority.make(name)));
    const [one, two, extra] = authorities as [CertificateAuthority, CertificateAuthority, CertificateAuthority];
    const file = join(await temporaryFolder(), "both.pem");
    await writeFile(file, `# one\n${await readFile(one.caFile, "utf8")}# two\n${await readFile(two.caFile, "utf8")}`);
    const trust = await openTrust(file, parts, extra.caFile);
    t.after(() => trust.close());
    for (const authority of authorities) {
      const { url } = await serve(t, await authority.certificate());
      assert.equal(await health(url, trust), 200);
    }
  });

  test("trusts a changed file's authorities from then on, and keeps its trust while the file is broken", async (t) => {
    const [first, second] = [await CertificateAuthority.make("first"), await CertificateAuthority.make("second")];
    const mounted = await MountedFiles.make({ "ca.crt": await readFile(first.caFile) });
    const trust = await trusting(t, mounted.path("ca.crt"));
    const [ofFirst, ofSecond] = [await serve(t, await first.certificate()), await serve(t, await second.certificate())];
    assert.equal(await health(ofFirst.url, trust), 200);
    await assert.rejects(health(ofSecond.url, trust), { code: "unavailable" });
    const both = `${await readFile(first.caFile, "utf8")}${await readFile(second.caFile, "utf8")}`;
    await mounted.swap({ "ca.crt": both });
    await eventually(() => health(ofSecond.url, trust));
    const context = trust.secureContext();
    await mounted.swap({ "ca.crt": both.slice(0, -100) });
    await new Promise((resolve) => setTimeout(resolve, 10 * parts.lookEveryMs));
    assert.equal(trust.secureContext(), context);
    assert.equal(await health(ofSecond.url, trust), 200);
    await mounted.swap({ "ca.crt": await readFile(second.caFile) });
    await eventually(() =>
      health(ofFirst.url, trust).then(
        () => false,
        (error: AppError) => error.code === "unavailable",
      ),
    );
    assert.equal(await health(ofSecond.url, trust), 200);
  });
});

describe("a renewed certificate", { skip }, () => {
  test("is served without a restart, and no request under way or begun meanwhile is lost", async (t) => {
    const authority = await CertificateAuthority.make();
    const mounted = await MountedFiles.make(await tlsSecret(await authority.certificate()));
    const { url, port, state, letGo } = await serve(t, {
      certFile: mounted.path("tls.crt"),
      keyFile: mounted.path("tls.key"),
    });
    const trust = await trusting(t, authority.caFile);
    const slow = fetchTrusted(`${url}/slow`, { trust });
    await eventually(() => state.held === 1);
    const load = { isOn: true, answered: 0 };
    const loading = Promise.all(
      Array.from({ length: 8 }, async () => {
        while (load.isOn) {
          assert.equal(await health(url, trust), 200);
          load.answered++;
        }
      }),
    );
    const serials = new Set<string>();
    try {
      serials.add(await servedSerial(port));
      for (let renewal = 1; renewal <= 3; renewal++) {
        await mounted.swap(await tlsSecret(await authority.certificate()));
        await eventually(async () => serials.size < serials.add(await servedSerial(port)).size);
      }
      const seen = load.answered;
      await eventually(() => load.answered > seen + 20);
    } finally {
      load.isOn = false;
      letGo();
    }
    await loading;
    assert.equal(await (await slow).text(), "begun ended");
    assert.equal(serials.size, 4);
  });

  const broken: readonly {
    readonly how: string;
    readonly files: (pair: Record<"tls.crt" | "tls.key", Buffer>) => Record<string, Buffer>;
    readonly says: RegExp;
  }[] = [
    {
      how: "half written",
      files: (pair) => ({ ...pair, "tls.crt": pair["tls.crt"].subarray(0, 300) }),
      says: /tls\.crt/,
    },
    {
      how: "without its key",
      files: (pair) => ({ "tls.crt": pair["tls.crt"] }),
      says: /tls\.key cannot be read: ENOENT/,
    },
    { how: "empty", files: () => ({ "tls.crt": Buffer.alloc(0), "tls.key": Buffer.alloc(0) }), says: /tls\.crt/ },
  ];
  for (const { how, files, says } of broken) {
    test(`that is ${how} leaves the one before it in use, is told at /ready, and heals with the next`, async (t) => {
      const authority = await CertificateAuthority.make();
      const mounted = await MountedFiles.make(await tlsSecret(await authority.certificate()));
      const server = await serve(t, { certFile: mounted.path("tls.crt"), keyFile: mounted.path("tls.key") });
      const trust = await trusting(t, authority.caFile);
      const before = await servedSerial(server.port);
      await mounted.swap(files(await tlsSecret(await authority.certificate())));
      const found = await eventually(async () => (await server.readiness()).find(({ ok }) => !ok));
      assert.match(found.detail ?? "", says);
      assert.match(found.fix ?? "", /tls\.crt.*tls\.key/);
      assert.equal(found.required, false);
      assert.equal(await servedSerial(server.port), before);
      assert.equal(await health(server.url, trust), 200);
      await mounted.swap(await tlsSecret(await authority.certificate()));
      await eventually(async () => (await server.readiness()).every(({ ok }) => ok));
      assert.notEqual(await servedSerial(server.port), before);
    });
  }

  test("whose key is another's is refused", async (t) => {
    const authority = await CertificateAuthority.make();
    const [one, other] = [await authority.certificate(), await authority.certificate()];
    await assert.rejects(serve(t, { certFile: one.certFile, keyFile: other.keyFile }), {
      code: "configuration_invalid",
      message: /does not fit/,
    });
  });
});

describe("settings of TLS", { skip }, () => {
  test("name both files or none", async () => {
    assert.equal(await ServerCertificate.open({}, parts), undefined);
    for (const half of [{ DYNAMOS_TLS_CERT_FILE: "/c.pem" }, { DYNAMOS_TLS_KEY_FILE: "/k.pem" }]) {
      await assert.rejects(ServerCertificate.open(half, parts), {
        code: "configuration_invalid",
        message: /DYNAMOS_TLS_CERT_FILE and DYNAMOS_TLS_KEY_FILE come together/,
      });
    }
  });

  test("whose files are missing or no good end the start, naming the file", async () => {
    const authority = await CertificateAuthority.make();
    const { certFile, keyFile } = await authority.certificate();
    const open = (cert: string, key: string) =>
      ServerCertificate.open({ DYNAMOS_TLS_CERT_FILE: cert, DYNAMOS_TLS_KEY_FILE: key }, parts);
    const invalid = (message: RegExp) => ({ code: "configuration_invalid", message });
    await assert.rejects(open("/missing.pem", keyFile), invalid(/\/missing\.pem cannot be read: ENOENT/));
    await assert.rejects(open(keyFile, keyFile), invalid(/key\.pem has no certificate/));
    await assert.rejects(open(certFile, certFile), invalid(/cert\.pem has no private key/));
    await assert.rejects(openTrust(keyFile, parts), invalid(/key\.pem has no certificate/));
    await assert.rejects(openTrust("/missing.pem", parts), invalid(/\/missing\.pem/));
  });

  test("whose certificate is over are told at /ready, and it is served on", async (t) => {
    const authority = await CertificateAuthority.make();
    const { readiness, port } = await serve(t, await authority.certificate("localhost", { days: -1 }));
    const [found] = await readiness();
    assert.equal(found?.ok, false);
    assert.match(found?.detail ?? "", /was valid until/);
    assert.ok(await servedSerial(port));
  });
});

test("what is no matter of TLS stays what it was", async () => {
  const thrown = await health("https://127.0.0.1:9", NODE_TRUST).catch((error: unknown) => error);
  assert.equal((thrown as NodeJS.ErrnoException).code, "ECONNREFUSED");
  assert.equal(toAppError(thrown).code, "internal");
});
