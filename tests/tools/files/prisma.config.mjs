// Prisma's engine as WebAssembly, which comes with its package, on the driver `pg`. Where the adapter between them is
// not what Prisma's native engine is, it is put right:
// - It does not know the type `name` (19) of PostgreSQL's catalogs, for which the engine asks: say that it is text (25).
// - It leaves the timer running that bounds its wait for a lock, and the driver its connection, for ten seconds, and the
//   process with them.
// - It cuts scripts at each semicolon, in strings and bodies, too: send them as they are, as the native engine does.
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
