import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { parseRabbitMqUrl, readCredentials } from "../../../lib/bus/rabbitmq-address.ts";
import { withCode } from "../../support/bus.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

test("a URL's parts have their defaults", () => {
  assert.deepEqual(parseRabbitMqUrl("amqp://broker.example.org"), {
    isTls: false,
    hosts: [{ hostname: "broker.example.org", port: 5672 }],
    vhost: "/",
    user: "guest",
    password: "guest",
    files: {},
    label: "amqp://guest@broker.example.org:5672/",
  });
});

test("a URL names several hosts, a virtual host and files, percent-encoded where need be", () => {
  const address = parseRabbitMqUrl(
    "amqps://jane%40x:p%3Aq@a.example.org,[::1]:5673,10.0.0.1/my%2Fhost?caFile=/etc/ca.pem&certFile=/c&keyFile=/k",
  );
  assert.deepEqual(address, {
    isTls: true,
    hosts: [
      { hostname: "a.example.org", port: 5671 },
      { hostname: "::1", port: 5673 },
      { hostname: "10.0.0.1", port: 5671 },
    ],
    vhost: "my/host",
    user: "jane@x",
    password: "p:q",
    files: { caFile: "/etc/ca.pem", certFile: "/c", keyFile: "/k" },
    label: "amqps://jane@x@a.example.org:5671,::1:5673,10.0.0.1:5671/my/host",
  });
});

for (const [fault, url] of [
  ["no host", "amqp://user:secret@"],
  ["a port that is none", "amqp://user:secret@host:70000"],
  ["an unknown parameter", "amqp://user:secret@host?heartbeat=5"],
  ["two passwords", "amqp://user:secret@host?passwordFile=/run/secret"],
  ["certificates without TLS", "amqp://user:secret@host?caFile=/ca"],
  ["a certificate without its key", "amqps://user:secret@host?certFile=/c"],
  ["a bad percent sign", "amqp://user:secret%zz@host"],
] as const) {
  test(`a URL with ${fault} is refused without showing its password`, () => {
    assert.throws(
      () => parseRabbitMqUrl(url),
      (error) =>
        !String(error).includes("secret@") &&
        !String(error).includes(":secret") &&
        withCode("configuration_invalid")(error),
    );
  });
}

test("the password comes from its file, each time anew, without the line's end", async () => {
  const file = join(await temporaryFolder(), "password");
  const address = parseRabbitMqUrl(`amqp://vu@host?passwordFile=${file}`);
  for (const password of ["first", "second "]) {
    await writeFile(file, `${password}\n`);
    assert.deepEqual(await readCredentials(address), { password });
  }
});

test("a file that cannot be read is named", async () => {
  const address = parseRabbitMqUrl("amqps://vu@host?caFile=/nowhere/ca.pem");
  await assert.rejects(readCredentials(address), (error) => {
    assert.match(String(error), /\/nowhere\/ca\.pem/);
    return withCode("configuration_invalid")(error);
  });
});
