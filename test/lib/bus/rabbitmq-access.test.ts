/** Who may do what at RabbitMQ, and over which wire. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, afterEach, before, describe, test } from "node:test";
import { promisify } from "node:util";
import { connect } from "amqplib";
import type { MessageBus } from "../../../lib/bus/message-bus.ts";
import { openRabbitMqBus } from "../../../lib/bus/rabbitmq.ts";
import { EXCHANGE } from "../../../lib/bus/rabbitmq-topology.ts";
import { accept, message, nameOf, newQueue, nextDeadLetters, take, withCode } from "../../support/bus.ts";
import { eventually } from "../../support/eventually.ts";
import { skipOwnRabbitMq, startOwnRabbitMq, type OwnRabbitMq, type VirtualHost } from "../../support/rabbitmq.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const PASSWORD = "made-up-for-this-test";
const MAX_CHANNELS = 12;

describe("access to RabbitMQ", { skip: skipOwnRabbitMq }, () => {
  let server: OwnRabbitMq;
  let vhost: VirtualHost;
  let folder: string;
  const opened: MessageBus[] = [];

  before(async () => {
    folder = await temporaryFolder();
    for (const name of ["ca", "other-ca"]) await makeAuthority(folder, name);
    await makeCertificate(folder, "ca", "server");
    const [caFile, certFile, keyFile] = ["ca.pem", "server.pem", "server.key"].map((name) => join(folder, name));
    server = await startOwnRabbitMq({
      configuration: [`channel_max = ${MAX_CHANNELS}`],
      tls: { caFile: caFile!, certFile: certFile!, keyFile: keyFile! },
    });
    vhost = await server.vhost();
    // What the control plane makes: exchanges, and its own queues.
    const core = await open(vhost.url);
    for (const queue of ["UVA-in", "orchestrator-in"]) await core.declareQueue(queue, { kind: "service" });
    await core.publish("UVA-in", { ...message("of others"), expiresAtMs: Date.now() - 1 });
    await nextDeadLetters(core, "UVA-in", 1);
    // As docs/configuration.md proposes.
    await server.addUser("vu", PASSWORD, vhost, {
      configure: "^VU-",
      write: "^(VU-.*|topic_exchange|dead-letter-exchange)$",
      read: "^(VU-.*|topic_exchange)$",
      topic: { exchange: EXCHANGE, write: "^(orchestrator-in.*|VU-.*)$", read: "^VU-" },
    });
    await closeOpened();
  });
  afterEach(() => closeOpened());
  after(() => server.close());

  async function open(url: string, deadlineMs = 10_000): Promise<MessageBus> {
    const bus = await openRabbitMqBus({ url, deadlineMs });
    opened.push(bus);
    return bus;
  }

  async function closeOpened(): Promise<void> {
    await Promise.all(opened.splice(0).map((bus) => bus.close()));
  }

  test("a steward's user declares, consumes and publishes what is its own", async () => {
    const bus = await open(vhost.urlFor("vu", PASSWORD));
    await bus.declareQueue("VU-in", { kind: "service" });
    await bus.declareQueue("VU-run-1", { kind: "run" });
    await bus.publish("VU-in", message("to itself"));
    await bus.publish("orchestrator-in", message("to the orchestrator"));
    assert.deepEqual((await take(bus, "VU-in", 1)).map(nameOf), ["to itself"]);
    const core = await open(vhost.url);
    assert.deepEqual((await take(core, "orchestrator-in", 1)).map(nameOf), ["to the orchestrator"]);
  });

  test("a steward's user cannot read another's queue, nor declare, delete or publish to it; it is told who and what", async () => {
    const bus = await open(vhost.urlFor("vu", PASSWORD));
    for (const attempt of [
      () => bus.consume("UVA-in", accept),
      () => bus.declareQueue("UVA-run-1", { kind: "run" }),
      () => bus.deleteQueue("UVA-in"),
      () => bus.publish("UVA-in", message("forged")),
      () => bus.deadLetters(10),
    ]) {
      await assert.rejects(attempt(), (error) => {
        assert.match(String(error), /user "vu"/);
        assert.doesNotMatch(String(error), new RegExp(PASSWORD));
        return withCode("access_refused")(error);
      });
    }
    // Each refusal closes a channel; the bus goes on.
    await bus.ping();
  });

  test("one publish that is refused takes no other with it", async () => {
    const bus = await open(vhost.urlFor("vu", PASSWORD));
    await bus.declareQueue("VU-in", { kind: "service" });
    const names = Array.from({ length: 40 }, (_, index) => `n${index}`);
    await bus.publish("VU-in", message("opens the channel"));
    const outcomes = await Promise.all(
      names.map((name, index) =>
        bus.publish(index === 20 ? "UVA-in" : "VU-in", message(name)).then(
          () => "confirmed",
          (error: unknown) => (error as { code: string }).code,
        ),
      ),
    );
    assert.equal(outcomes[20], "access_refused");
    // What was on its way before the refused one may be unknown; what came after was sent again, in order.
    assert.ok(
      outcomes.slice(0, 20).every((outcome) => ["confirmed", "unavailable"].includes(outcome)),
      outcomes.join(),
    );
    assert.deepEqual([...new Set(outcomes.slice(21))], ["confirmed"]);
    const arrived = (await take(bus, "VU-in", 1 + 39, 1)).map(nameOf).slice(1);
    assert.deepEqual(
      arrived,
      names.filter((_, index) => index !== 20),
    );
  });

  test("nobody binds another's key, or a pattern that catches it, nor sends under another's name", async () => {
    const connection = await connect(vhost.urlFor("vu", PASSWORD));
    connection.on("error", () => undefined);
    const bus = await open(vhost.urlFor("vu", PASSWORD));
    await bus.declareQueue("VU-in", { kind: "service" });
    for (const key of ["UVA-in", "#", "*"]) {
      const channel = await connection.createChannel();
      channel.on("error", () => undefined);
      await assert.rejects(channel.bindQueue("VU-in", EXCHANGE, key), /ACCESS_REFUSED/, key);
    }
    const channel = await connection.createConfirmChannel();
    const told: string[] = [];
    channel.on("error", (error: Error) => told.push(error.message));
    channel.publish(EXCHANGE, "orchestrator-in", Buffer.from("forged"), { userId: "uva" });
    await eventually(() => told.length > 0);
    assert.match(told[0]!, /user_id property set to 'uva' but authenticated user was 'vu'/);
    await connection.close();
  });

  test("a wrong password, an unknown user and a virtual host of others are refused at once, by name", async () => {
    await server.addUser("stranger", PASSWORD, await server.vhost(), { configure: "", write: "", read: "" });
    const cases: readonly (readonly [string, RegExp])[] = [
      [vhost.urlFor("vu", "secret-guess"), /credentials of user "vu"/],
      [vhost.urlFor("nobody", "secret-guess"), /credentials of user "nobody"/],
      [vhost.urlFor("stranger", PASSWORD), /virtual host "test-.*user "stranger"/],
      [vhost.url.replace(vhost.name, "no-such"), /no virtual host "no-such"/],
    ];
    for (const [url, expected] of cases) {
      const start = performance.now();
      await assert.rejects(open(url), (error) => {
        assert.match(String(error), expected);
        assert.doesNotMatch(String(error), /secret-guess|made-up/);
        return withCode("access_refused")(error);
      });
      assert.ok(performance.now() - start < 8000, "it did not try again until its deadline");
    }
  });

  test("a user who may declare nothing is told so when the exchanges are missing", async () => {
    const empty = await server.vhost();
    await server.addUser("early", PASSWORD, empty, { configure: "^VU-", write: ".*", read: ".*" });
    await assert.rejects(open(empty.urlFor("early", PASSWORD)), (error) => {
      assert.match(String(error), /topic_exchange.*user "?'?early/s);
      return withCode("access_refused")(error);
    });
    await empty.remove();
  });

  test("a password that changes in its file counts with the next connection", async () => {
    const file = join(folder, "password");
    await writeFile(file, PASSWORD);
    const user = { configure: ".*", write: ".*", read: ".*" };
    await server.addUser("rotating", PASSWORD, vhost, user);
    const bus = await open(`amqp://rotating@127.0.0.1:${server.port}/${vhost.name}?passwordFile=${file}`, 30_000);
    const queue = await newQueue(bus);
    await server.addUser("rotating", "the-next-one", vhost, user);
    await writeFile(file, "the-next-one\n");
    await eventually(async () => (await server.cutConnections(vhost)) > 0, { timeoutMs: 20_000 });
    await bus.publish(queue, message("still in"));
    assert.deepEqual((await take(bus, queue, 1)).map(nameOf), ["still in"]);
  });

  test("TLS with the right authority works; another one, or none, is refused by name", async () => {
    const at = (parameters: string): string => {
      const { username, password } = new URL(vhost.url);
      return `amqps://${username}:${password}@127.0.0.1:${server.tlsPort}/${vhost.name}${parameters}`;
    };
    const bus = await open(at(`?caFile=${join(folder, "ca.pem")}`));
    const queue = await newQueue(bus);
    await bus.publish(queue, message("sealed"));
    assert.deepEqual((await take(bus, queue, 1)).map(nameOf), ["sealed"]);
    for (const parameters of [`?caFile=${join(folder, "other-ca.pem")}`, ""]) {
      await assert.rejects(open(at(parameters)), (error) => {
        assert.match(String(error), /caFile/);
        return withCode("configuration_invalid")(error);
      });
    }
  });

  test("more consumers than the broker allows channels is an error that says so; the others go on", async () => {
    const bus = await open(vhost.url, 2000);
    const queues = await Promise.all(Array.from({ length: MAX_CHANNELS + 1 }, () => newQueue(bus, { kind: "run" })));
    const outcomes = await Promise.allSettled(queues.map((queue) => bus.consume(queue, accept)));
    const refused = outcomes.filter((outcome) => outcome.status === "rejected");
    assert.ok(refused.length > 0);
    for (const { reason } of refused) {
      assert.ok(withCode("unavailable")(reason));
      assert.match(String(reason), /channel_max/);
    }
    await bus.publish(queues[0]!, message("x"));
  });
});

async function makeAuthority(folder: string, name: string): Promise<void> {
  const at = (suffix: string): string => join(folder, `${name}.${suffix}`);
  await openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", `/CN=${name}`,
    "-keyout", at("key"), "-out", at("pem")); // prettier-ignore
}

async function makeCertificate(folder: string, authority: string, name: string): Promise<void> {
  const at = (file: string): string => join(folder, file);
  await writeFile(at(`${name}.ext`), "subjectAltName = IP:127.0.0.1, DNS:localhost");
  await openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", `/CN=${name}`,
    "-keyout", at(`${name}.key`), "-out", at(`${name}.csr`)); // prettier-ignore
  await openssl("x509", "-req", "-in", at(`${name}.csr`), "-CA", at(`${authority}.pem`), "-CAkey", at(`${authority}.key`),
    "-CAcreateserial", "-days", "2", "-extfile", at(`${name}.ext`), "-out", at(`${name}.pem`)); // prettier-ignore
}

async function openssl(...args: readonly string[]): Promise<void> {
  await promisify(execFile)("openssl", [...args]);
}
