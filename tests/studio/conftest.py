"""A running studio with the tiny model and a browser, shared by all browser tests in a process."""

import pytest

from tests.studio.studio_page import StudioPage, browser_path, running_studio


@pytest.fixture(scope="session")
def chromium():
    """Yields a headless Chromium."""
    path = browser_path()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def output(tmp_path_factory):
    """Returns the server's output folder."""
    return tmp_path_factory.mktemp("studio")


@pytest.fixture(scope="session")
def url(chromium, output):
    """Yields the address of a running studio with the tiny model."""
    with running_studio(output, "--model", "tiny") as address:
        yield address


@pytest.fixture
def studio(chromium, url):
    """Yields a new tab; a test fails if a script in the page raises an error."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    tab = StudioPage(context.new_page(), url)
    yield tab
    errors = tab.errors
    context.close()
    assert not errors


@pytest.fixture(scope="session")
def rocket(request):
    """Returns the folder of the shipped rocket example, which has a photograph."""
    return request.config.rootpath / "smcd_jax" / "assets" / "examples" / "rocket"
