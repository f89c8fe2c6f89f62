// Looks at the live page in headless Chromium: `node tests/page.mjs URL OUT_PREFIX`.
// Fails on any console error or exception, and when a number on the page differs from /runtime.json.
// Writes OUT_PREFIX-{light,dark,phone}.png. `tests/page.rs` runs it against the example `live_page`.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const [url, out, seconds = '12'] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), 'stellane-page-'));
const chromium = spawn(process.env.CHROMIUM || 'chromium', [
  '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--remote-debugging-pipe',
  '--no-first-run', '--hide-scrollbars', '--disable-background-networking', '--disable-component-update', `--user-data-dir=${profile}`, 'about:blank',
], { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] });

const problems = [];
const waiting = new Map();
let nextId = 0, buffer = '';
chromium.stdio[4].on('data', chunk => {
  const parts = (buffer += chunk).split('\0');
  buffer = parts.pop();
  for (const part of parts) {
    const message = JSON.parse(part);
    if (message.id) { waiting.get(message.id)?.(message); waiting.delete(message.id); }
    if (message.method === 'Runtime.exceptionThrown') problems.push(message.params.exceptionDetails.exception?.description || message.params.exceptionDetails.text);
    if (message.method === 'Runtime.consoleAPICalled' && ['error', 'warning', 'assert'].includes(message.params.type)) problems.push('console: ' + message.params.args.map(a => a.value).join(' '));
    if (message.method === 'Log.entryAdded' && message.params.entry.level === 'error') problems.push('log: ' + message.params.entry.text + ' ' + message.params.entry.url);
  }
});
const send = (method, params = {}, sessionId) => new Promise((resolve, reject) => {
  const id = ++nextId;
  waiting.set(id, m => m.error ? reject(new Error(method + ': ' + m.error.message)) : resolve(m.result));
  chromium.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + '\0');
});
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

let failed = false;
try {
  const { targetId } = await send('Target.createTarget', { url: 'about:blank' });
  const { sessionId } = await send('Target.attachToTarget', { targetId, flatten: true });
  const page = (method, params) => send(method, params, sessionId);
  await Promise.all(['Page.enable', 'Runtime.enable', 'Log.enable'].map(m => page(m)));
  const theme = value => page('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value }] });
  const size = (width, height, mobile) => page('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: mobile ? 2 : 1, mobile });
  const evaluate = async expression => {
    const { result, exceptionDetails } = await page('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description || exceptionDetails.text);
    return result.value;
  };
  const shoot = async name => {
    await sleep(700);
    const { data } = await page('Page.captureScreenshot', { captureBeyondViewport: true });
    writeFileSync(`${out}-${name}.png`, Buffer.from(data, 'base64'));
  };

  await theme('light');
  await size(1280, 1150, false);
  await page('Page.navigate', { url });
  await sleep(Number(seconds) * 1000);
  const compared = await evaluate(`(async () => {
    for (let attempt = 0; attempt < 100; attempt++) {
      const json = await (await fetch('runtime.json')).json();
      await new Promise(resolve => setTimeout(resolve, 20));
      if (document.documentElement.dataset.snapshot !== String(json.uptime)) continue;
      const tiles = [...document.querySelectorAll('[data-key]')];
      return { tiles: tiles.length, wrong: tiles.filter(t => t.dataset.raw !== String(json[t.dataset.key])).map(t => t.dataset.key) };
    }
    return { tiles: 0, wrong: ['no snapshot in common'] };
  })()`);
  if (compared.wrong.length || !compared.tiles) problems.push('page and /runtime.json differ: ' + compared.wrong);
  const overflow = () => evaluate('document.documentElement.scrollWidth - innerWidth');
  if (await overflow() > 0) problems.push('the page scrolls sideways on a desktop');
  await shoot('light');
  await theme('dark');
  await shoot('dark');
  await size(390, 844, true);
  await sleep(500);
  if (await overflow() > 0) problems.push('the page scrolls sideways on a phone');
  await shoot('phone');
  console.log(`${compared.tiles} numbers compared`);
} catch (error) {
  problems.push(error.stack);
} finally {
  await Promise.race([send('Browser.close').catch(() => {}), sleep(2000)]);
  chromium.kill();
  await sleep(300);
  rmSync(profile, { recursive: true, force: true });
}
for (const problem of problems) { failed = true; console.error(problem); }
process.exit(failed ? 1 : 0);
