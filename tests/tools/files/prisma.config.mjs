// Prisma's engine as WebAssembly, which is in its package, with the driver `pg`. This fixes where the adapter between
// them differs from Prisma's native engine:
// - It does not know the type `name` (19) of PostgreSQL's catalogs, which the engine reads: say that it is text (25).
// - It leaves the timer for its lock wait running, and the driver's connection open, for ten seconds, which keeps the
//   process alive.
// - It splits scripts at each semicolon, even in strings and bodies: send them whole, as the native engine does.
import { defineConfig } from "prisma/config";
import { PrismaPg } from "@prisma/adapter-pg";
import pg from "pg";

const { setTimeout } = globalThis;
globalThis.setTimeout = (work, delay, ...args) => {
  const timer = setTimeout(work, delay, ...args);
  return delay === 10_000 ? timer.unref() : timer;
};

for (const kind of [pg.Pool, pg.Client]) {
  const query = kind.prototype.query;
  kind.prototype.query = function (...args) {
    const answer = query.apply(this, args);
    return answer?.then ? answer.then(known) : answer;
  };
}

function known(results) {
  for (const result of [results].flat()) {
    for (const field of result.fields ?? []) {
      if (field.dataTypeID === 19) field.dataTypeID = 25;
    }
  }
  return results;
}

class Factory extends PrismaPg {
  async connect() {
    const adapter = await super.connect();
    adapter.executeScript = async (script) => {
      await adapter.performIO({ sql: script, args: [], argTypes: [] });
    };
    return adapter;
  }
}

export default defineConfig({
  experimental: { adapter: true },
  engine: "js",
  schema: "prisma/schema.prisma",
  async adapter() {
    return new Factory({ connectionString: process.env.DATABASE_URL, allowExitOnIdle: true });
  },
});
